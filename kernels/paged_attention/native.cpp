// The CPU twin of paged_attention: a page's keys and values are read once for all query heads that share them.
#include <cmath>
#include <cstring>
#include <limits>

#include "../lora.h"
#include "../vectors.h"

namespace graftwork {
namespace {

// y[j] += sum_i x[i] m[i][j], four rows at a time. Both halves of attention have this form: scores over a page's
// positions (m: keys by column) and sums over them (m: values by row).
LEAF void add_product(
    float* RESTRICT y, const float* RESTRICT x, const float* RESTRICT m, std::int64_t rows, std::int64_t columns) {
    std::int64_t i = 0;
    for (; i + 4 <= rows; i += 4) {
        const float a = x[i], b = x[i + 1], c = x[i + 2], d = x[i + 3];
        const float *p = m + i * columns, *q = p + columns, *r = q + columns, *s = r + columns;
        for (std::int64_t j = 0; j < columns; j++) y[j] += (a * p[j] + b * q[j]) + (c * r[j] + d * s[j]);
    }
    for (; i < rows; i++)
        for (std::int64_t j = 0; j < columns; j++) y[j] += x[i] * m[i * columns + j];
}

// x[j] = exp(x[j] - top) for x[j] <= top: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes' expf).
LEAF void exponentials(float* RESTRICT x, float top, std::int64_t count) {
    constexpr float rounder = 12582912.f;  // adding it leaves no fraction
    for (std::int64_t j = 0; j < count; j++) {
        const float z = x[j] - top < -87.f ? -87.f : x[j] - top;
        const float n = (z * 1.44269504088896341f + rounder) - rounder;
        const float r = (z - n * 0.693359375f) + n * 2.12194440e-4f;
        float p = 1.9875691500e-4f;
        p = p * r + 1.3981999507e-3f;
        p = p * r + 8.3334519073e-3f;
        p = p * r + 4.1665795894e-2f;
        p = p * r + 1.6666665459e-1f;
        p = p * r + 5.0000001201e-1f;
        p = (p * r * r + r) + 1.f;
        const std::int32_t bits = (static_cast<std::int32_t>(n) + 127) << 23;
        float power;
        std::memcpy(&power, &bits, sizeof power);
        x[j] = p * power;
    }
}

// Any number of elements in float32: in place when they are, else converted into `scratch`.
const float* read_all(const Array& array, std::int64_t first, std::int64_t count, float* scratch) {
    if (array.dtype == Dtype::F32) return array.read(first, count, nullptr);
    for (std::int64_t i = 0; i < count; i += BLOCK) array.read(first + i, std::min(BLOCK, count - i), scratch + i);
    return scratch;
}

#ifdef GRAFTWORK_AVX512
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

constexpr int CHAINS = 4;  // partial sums of a score, so that one product need not wait for the other

// scores[g * columns + j] = q[g] . keys[., j] for GROUP query heads and a page's positions.
template <typename Kind, int GROUP>
void score_page(
    float* scores,
    std::int64_t columns,
    const float* q,
    const typename Kind::Element* keys,
    std::int64_t width,
    std::int64_t page) {
    for (std::int64_t j = 0; j < page; j += LANE) {
        const __mmask16 mask = columns_left(page - j);
        __m512 sums[GROUP][CHAINS];
        UNROLL for (int g = 0; g < GROUP; g++)
            UNROLL for (int c = 0; c < CHAINS; c++) sums[g][c] = _mm512_setzero_ps();
        std::int64_t i = 0;
        for (; i + CHAINS <= width; i += CHAINS)
            UNROLL for (int c = 0; c < CHAINS; c++) {
                const __m512 key = Kind::load(keys + (i + c) * page + j, mask);
                UNROLL for (int g = 0; g < GROUP; g++)
                    sums[g][c] = _mm512_fmadd_ps(_mm512_set1_ps(q[g * width + i + c]), key, sums[g][c]);
            }
        for (; i < width; i++) {
            const __m512 key = Kind::load(keys + i * page + j, mask);
            UNROLL for (int g = 0; g < GROUP; g++)
                sums[g][0] = _mm512_fmadd_ps(_mm512_set1_ps(q[g * width + i]), key, sums[g][0]);
        }
        UNROLL for (int g = 0; g < GROUP; g++)
            _mm512_mask_storeu_ps(
                scores + g * columns + j, mask,
                _mm512_add_ps(_mm512_add_ps(sums[g][0], sums[g][1]), _mm512_add_ps(sums[g][2], sums[g][3])));
    }
}

// sums[g * width + j] += sum over t of weights[g * columns + t] * values[t, j] for GROUP query heads.
template <typename Kind, int GROUP>
void sum_page(
    float* sums,
    const float* weights,
    std::int64_t columns,
    const typename Kind::Element* values,
    std::int64_t count,
    std::int64_t width) {
    constexpr int VECTORS = 4;
    for (std::int64_t j = 0; j < width; j += VECTORS * LANE) {
        __mmask16 masks[VECTORS];
        __m512 total[GROUP][VECTORS];
        UNROLL for (int v = 0; v < VECTORS; v++) {
            masks[v] = columns_left(width - j - v * LANE);
            UNROLL for (int g = 0; g < GROUP; g++)
                total[g][v] = _mm512_maskz_loadu_ps(masks[v], sums + g * width + j + v * LANE);
        }
        for (std::int64_t t = 0; t < count; t++) {
            __m512 row[VECTORS];
            UNROLL for (int v = 0; v < VECTORS; v++)
                row[v] = Kind::load(values + t * width + j + v * LANE, masks[v]);
            UNROLL for (int g = 0; g < GROUP; g++) {
                const __m512 weight = _mm512_set1_ps(weights[g * columns + t]);
                UNROLL for (int v = 0; v < VECTORS; v++) total[g][v] = _mm512_fmadd_ps(weight, row[v], total[g][v]);
            }
        }
        UNROLL for (int g = 0; g < GROUP; g++)
            UNROLL for (int v = 0; v < VECTORS; v++)
                _mm512_mask_storeu_ps(sums + g * width + j + v * LANE, masks[v], total[g][v]);
    }
}

// Both for any number of query heads.
template <typename Kind>
struct Pages {
    static const typename Kind::Element* at(const Array& array, std::int64_t first) {
        return reinterpret_cast<const typename Kind::Element*>(array.data) + first;
    }

    static void score(
        float* scores, std::int64_t columns, const float* q, const Array& keys, std::int64_t first, std::int64_t shared,
        std::int64_t width, std::int64_t page) {
        std::int64_t g = 0;
        for (; g + 4 <= shared; g += 4)
            score_page<Kind, 4>(scores + g * columns, columns, q + g * width, at(keys, first), width, page);
        for (; g + 2 <= shared; g += 2)
            score_page<Kind, 2>(scores + g * columns, columns, q + g * width, at(keys, first), width, page);
        if (g < shared) score_page<Kind, 1>(scores + g * columns, columns, q + g * width, at(keys, first), width, page);
    }

    static void sum(
        float* sums, const float* weights, std::int64_t columns, const Array& values, std::int64_t first,
        std::int64_t count, std::int64_t shared, std::int64_t width) {
        std::int64_t g = 0;
        for (; g + 4 <= shared; g += 4)
            sum_page<Kind, 4>(sums + g * width, weights + g * columns, columns, at(values, first), count, width);
        for (; g + 2 <= shared; g += 2)
            sum_page<Kind, 2>(sums + g * width, weights + g * columns, columns, at(values, first), count, width);
        if (g < shared)
            sum_page<Kind, 1>(sums + g * width, weights + g * columns, columns, at(values, first), count, width);
    }
};
#pragma GCC pop_options
#endif

bool are_fast(const Array& array) {
#ifdef GRAFTWORK_AVX512
    return (array.dtype == Dtype::BF16 && has_avx512_bf16()) || (array.dtype == Dtype::F32 && has_avx512());
#else
    return false;
#endif
}

// scores[g * columns + j] = q[g] . the page's key j, for all `shared` query heads; `first` is where the page's keys begin.
void score(
    float* scores, std::int64_t columns, const float* q, const Array& keys, std::int64_t first, std::int64_t shared,
    std::int64_t width, std::int64_t page, float* scratch) {
#ifdef GRAFTWORK_AVX512
    if (are_fast(keys)) {
        const auto run = keys.dtype == Dtype::BF16 ? Pages<BFloats>::score : Pages<Floats>::score;
        return run(scores, columns, q, keys, first, shared, width, page);
    }
#endif
    const float* block = read_all(keys, first, width * page, scratch);
    for (std::int64_t g = 0; g < shared; g++) {
        std::fill(scores + g * columns, scores + g * columns + page, 0.f);
        add_product(scores + g * columns, q + g * width, block, width, page);
    }
}

// sums[g * width + j] += sum over t below `count` of weights[g * columns + t] * the value at `first + t * width + j`.
void sum(
    float* sums, const float* weights, std::int64_t columns, const Array& values, std::int64_t first, std::int64_t count,
    std::int64_t shared, std::int64_t width, float* scratch) {
#ifdef GRAFTWORK_AVX512
    if (are_fast(values)) {
        const auto run = values.dtype == Dtype::BF16 ? Pages<BFloats>::sum : Pages<Floats>::sum;
        return run(sums, weights, columns, values, first, count, shared, width);
    }
#endif
    const float* block = read_all(values, first, count * width, scratch);
    for (std::int64_t g = 0; g < shared; g++)
        add_product(sums + g * width, weights + g * columns, block, count, width);
}

struct Shape {
    std::int64_t query_heads, heads, shared, width, value_width, page;
};

// The blocks of pages lie far apart, so no hardware fetches the next one in time.
void fetch(const Array& array, std::int64_t first, std::int64_t count) {
#ifdef __GNUC__
    const char *begin = array.data + first * array.itemsize(), *end = begin + count * array.itemsize();
    for (const char* line = begin; line < end; line += 64) __builtin_prefetch(line);
#endif
}

struct Scratch {
    std::vector<float> query, block, scores, sums;
};

// One sequence's query heads that share key head `head`; it sees positions first..length-1.
void attend(
    const Array& out,
    const Array& q,
    const Array& keys,
    const Array& values,
    const std::int32_t* pages,
    const Shape& is,
    std::int64_t sequence,
    std::int64_t head,
    std::int64_t first,
    std::int64_t length,
    float scale,
    Scratch& scratch) {
    const std::int64_t from = first / is.page, until = (length + is.page - 1) / is.page;
    const std::int64_t columns = (until - from) * is.page;  // whole pages; what is not seen is left out below
    scratch.query.resize(static_cast<std::size_t>(is.shared * is.width));
    scratch.block.resize(static_cast<std::size_t>(is.page * std::max(is.width, is.value_width)));
    scratch.scores.resize(static_cast<std::size_t>(is.shared * columns));
    scratch.sums.assign(static_cast<std::size_t>(is.shared * is.value_width), 0.f);
    const std::int64_t row = sequence * is.query_heads + head * is.shared;
    const float* query = read_all(q, row * is.width, is.shared * is.width, scratch.query.data());
    for (std::int64_t i = 0; i < is.shared * is.width; i++) scratch.query[i] = query[i] * scale;
    for (std::int64_t p = from; p < until; p++) {
        const std::int64_t size = is.width * is.page, at = (pages[p] * is.heads + head) * size;
        fetch(values, (pages[p] * is.heads + head) * is.page * is.value_width, is.page * is.value_width);
        if (p + 1 < until) fetch(keys, (pages[p + 1] * is.heads + head) * size, size);
        score(
            &scratch.scores[(p - from) * is.page], columns, scratch.query.data(), keys, at, is.shared, is.width, is.page,
            scratch.block.data());
    }
    const std::int64_t skipped = first - from * is.page, seen = length - first;
    for (std::int64_t g = 0; g < is.shared; g++) {
        float* scores = &scratch.scores[g * columns + skipped];
        exponentials(scores, *std::max_element(scores, scores + seen), seen);
    }
    for (std::int64_t p = from; p < until; p++) {
        const std::int64_t size = is.page * is.value_width, at = (pages[p] * is.heads + head) * size;
        const std::int64_t begin = std::max(first, p * is.page), end = std::min(length, (p + 1) * is.page);
        const std::int64_t offset = begin - p * is.page;
        sum(scratch.sums.data(), &scratch.scores[begin - from * is.page], columns, values,
            at + offset * is.value_width, end - begin, is.shared, is.value_width, scratch.block.data());
    }
    for (std::int64_t g = 0; g < is.shared; g++) {
        const float* weights = &scratch.scores[g * columns + skipped];
        float total = 0.f;
        for (std::int64_t t = 0; t < seen; t++) total += weights[t];
        float* sums = &scratch.sums[g * is.value_width];
        for (std::int64_t j = 0; j < is.value_width; j++) sums[j] /= total;
        for (std::int64_t j = 0; j < is.value_width; j += BLOCK)
            out.write((row + g) * is.value_width + j, std::min(BLOCK, is.value_width - j), sums + j);
    }
}

}  // namespace

void paged_attention(
    const Array& out,
    const Array& q,
    const Array& keys,
    const Array& values,
    const Array& pages,
    const Array& lengths,
    float scale,
    std::int64_t window) {
    const Shape is{
        q.shape.at(1), keys.shape.at(1), q.shape[1] / keys.shape[1], q.shape.at(2), values.shape.at(3),
        keys.shape.at(3)};
    const std::int64_t sequences = q.shape.at(0), most = pages.shape.at(1);
    check_sizes(sequences * is.query_heads * is.value_width, std::vector<Array>{out});
    check_sizes(keys.shape.at(0) * is.heads * is.page * is.value_width, std::vector<Array>{values});
    check_sizes(sequences, std::vector<Array>{lengths});
    const std::int32_t *table = pages.int32(), *ends = lengths.int32();
    std::int64_t work = 0;
    for (std::int64_t s = 0; s < sequences; s++) {
        if (ends[s] < 1 || ends[s] > most * is.page)
            throw std::out_of_range("sequence " + std::to_string(s) + " has no such length");
        for (std::int64_t p = 0; p < (ends[s] + is.page - 1) / is.page; p++)
            if (table[s * most + p] < 0 || table[s * most + p] >= keys.shape[0])
                throw std::out_of_range("sequence " + std::to_string(s) + " has a page that does not exist");
        work += ends[s] * is.query_heads * (is.width + is.value_width);
    }
    split(sequences * is.heads, work, [&](std::int64_t begin, std::int64_t end) {
        Scratch scratch;
        for (std::int64_t i = begin; i < end; i++) {
            const std::int64_t s = i / is.heads, length = ends[s];
            const std::int64_t first = window > 0 ? std::max<std::int64_t>(0, length - window) : 0;
            attend(
                out, q, keys, values, table + s * most, is, s, i % is.heads, first, length, scale, scratch);
        }
    });
}

}  // namespace graftwork
