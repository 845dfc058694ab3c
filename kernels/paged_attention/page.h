// A page's part of a few rows' attention. To be included once.
#pragma once

#include <algorithm>

#include "../array.h"
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

// sums[g * width + j] += sum over t below `count` of weights[g * columns + t] * the value at `first + t * width + j`;
// `block` has these values in float32, unless they are fast.
void sum(
    float* sums, const float* weights, std::int64_t columns, const Array& values, std::int64_t first, std::int64_t count,
    std::int64_t shared, std::int64_t width, const float* block) {
#ifdef GRAFTWORK_AVX512
    if (are_fast(values)) {
        const auto run = values.dtype == Dtype::BF16 ? Pages<BFloats>::sum : Pages<Floats>::sum;
        return run(sums, weights, columns, values, first, count, shared, width);
    }
#endif
    for (std::int64_t g = 0; g < shared; g++)
        add_product(sums + g * width, weights + g * columns, block, count, width);
}

}  // namespace
}  // namespace graftwork
