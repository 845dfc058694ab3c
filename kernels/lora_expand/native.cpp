// The CPU twin of lora_expand: each row of the pool is read once for a run of tokens.
#include "../lora.h"
#include "../vectors.h"

#ifdef GRAFTWORK_AVX512
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace graftwork {
namespace {

// What is added to y: for `tokens` rows of it and `count` columns, `rank` rows of b, weighted by h.
template <typename Kind>
struct Product {
    typename Kind::Element* y;
    std::int64_t y_stride, tokens;
    const float* h;
    std::int64_t stride;
    const typename Kind::Element* b;
    std::int64_t rank, width, count;

    // What is left of it from a token and a column on.
    Product from(std::int64_t t, std::int64_t j) const {
        return {y + t * y_stride + j, y_stride, tokens - t, h + t * stride, stride, b + j, rank, width, count - j};
    }
};

// sums += h[r] * b[r] for ROWS rows, each a stream of its own; the rows after them are fetched meanwhile.
template <typename Kind, int ROWS, int TOKENS>
void add_rows(
    float (*sums)[MANY_COLUMNS / TOKENS],
    const float* h,
    std::int64_t stride,
    const typename Kind::Element* b,
    std::int64_t width,
    std::int64_t count) {
    __m512 weights[TOKENS][ROWS];
    UNROLL for (int t = 0; t < TOKENS; t++)
        UNROLL for (int r = 0; r < ROWS; r++) weights[t][r] = _mm512_set1_ps(h[t * stride + r]);
    const auto add_vector = [&](std::int64_t j, __mmask16 mask) __attribute__((always_inline)) {
        __m512 row[ROWS];
        UNROLL for (int r = 0; r < ROWS; r++) {
            row[r] = Kind::load(b + r * width + j, mask);
            _mm_prefetch(reinterpret_cast<const char*>(b + (r + ROWS) * width + j), _MM_HINT_T0);
        }
        UNROLL for (int t = 0; t < TOKENS; t++) {
            __m512 sum = _mm512_load_ps(sums[t] + j);
            UNROLL for (int r = 0; r < ROWS; r++) sum = _mm512_fmadd_ps(weights[t][r], row[r], sum);
            _mm512_store_ps(sums[t] + j, sum);
        }
    };
    std::int64_t j = 0;
    for (; j + LANE <= count; j += LANE) add_vector(j, 0xffff);
    if (j < count) add_vector(j, columns_left(count - j));
}

// A few tokens: streams of rows into sums that stay in the first-level cache.
template <typename Kind, int TOKENS>
void expand_few(Product<Kind> p) {
    const auto& [y, y_stride, tokens, h, stride, b, rank, width, count] = p;
    constexpr int ROWS = TOKENS == 1 ? 8 : 4;
    constexpr std::int64_t COLUMNS = MANY_COLUMNS / TOKENS;
    alignas(64) float sums[TOKENS][COLUMNS];
    for (std::int64_t first = 0; first < count; first += COLUMNS) {
        const std::int64_t columns = std::min(COLUMNS, count - first);
        for (int t = 0; t < TOKENS; t++)
            for (std::int64_t j = 0; j < columns; j += LANE) _mm512_store_ps(sums[t] + j, _mm512_setzero_ps());
        std::int64_t r = 0;
        for (; r + ROWS <= rank; r += ROWS)
            add_rows<Kind, ROWS, TOKENS>(sums, h + r, stride, b + r * width + first, width, columns);
        for (; r < rank; r++) add_rows<Kind, 1, TOKENS>(sums, h + r, stride, b + r * width + first, width, columns);
        for (int t = 0; t < TOKENS; t++)
            for (std::int64_t j = 0; j < columns; j += LANE) {
                const __mmask16 mask = columns_left(columns - j);
                typename Kind::Element* at = y + t * y_stride + first + j;
                Kind::store(at, mask, _mm512_add_ps(Kind::load(at, mask), _mm512_load_ps(sums[t] + j)));
            }
    }
}

// TOKENS tokens by VECTORS vectors of columns, their sums in registers.
template <typename Kind, int TOKENS, int VECTORS>
void expand_many(Product<Kind> p) {
    const auto& [y, y_stride, tokens, h, stride, b, rank, width, count] = p;
    UNROLL for (int t = 0; t < TOKENS; t++)
        for (std::size_t at = 0; at < VECTORS * LANE * sizeof(typename Kind::Element); at += 64)
            __builtin_prefetch(reinterpret_cast<const char*>(y + t * y_stride) + at, 1);
    __m512 sums[TOKENS][VECTORS];
    __mmask16 masks[VECTORS];
    UNROLL for (int v = 0; v < VECTORS; v++) {
        masks[v] = columns_left(count - v * LANE);
        UNROLL for (int t = 0; t < TOKENS; t++) sums[t][v] = _mm512_setzero_ps();
    }
    for (std::int64_t r = 0; r < rank; r++) {
        __m512 row[VECTORS];
        UNROLL for (int v = 0; v < VECTORS; v++) row[v] = Kind::load(b + r * width + v * LANE, masks[v]);
        UNROLL for (int t = 0; t < TOKENS; t++) {
            const __m512 weight = _mm512_set1_ps(h[t * stride + r]);
            UNROLL for (int v = 0; v < VECTORS; v++) sums[t][v] = _mm512_fmadd_ps(weight, row[v], sums[t][v]);
        }
    }
    UNROLL for (int t = 0; t < TOKENS; t++)
        UNROLL for (int v = 0; v < VECTORS; v++) {
            typename Kind::Element* at = y + t * y_stride + v * LANE;
            Kind::store(at, masks[v], _mm512_add_ps(Kind::load(at, masks[v]), sums[t][v]));
        }
}

// As many of the tokens as make groups of TOKENS; the product that is left.
template <typename Kind, int TOKENS, int VECTORS>
Product<Kind> expand_groups(Product<Kind> p) {
    for (; p.tokens >= TOKENS; p = p.from(TOKENS, 0))
        for (std::int64_t j = 0; j < p.count; j += VECTORS * LANE) expand_many<Kind, TOKENS, VECTORS>(p.from(0, j));
    return p;
}

template <typename Kind>
void expand_avx512(Product<Kind> p) {
    if (p.tokens > FEW_TOKENS) p = expand_groups<Kind, 4, 4>(expand_groups<Kind, 12, 2>(p));
    for (; p.tokens >= 4; p = p.from(4, 0)) expand_few<Kind, 4>(p);
    for (; p.tokens >= 2; p = p.from(2, 0)) expand_few<Kind, 2>(p);
    if (p.tokens) expand_few<Kind, 1>(p);
}

}  // namespace
}  // namespace graftwork
#pragma GCC pop_options
#endif

namespace graftwork {
namespace {

LEAF void add_scaled(float* RESTRICT sum, const float* RESTRICT row, float weight, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) sum[j] += weight * row[j];
}

LEAF void add(float* RESTRICT sum, const float* RESTRICT y, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) sum[j] += y[j];
}

constexpr std::int64_t TOKENS = 8;  // tokens whose sums are kept in the first-level cache together

// `tokens <= TOKENS` and `count <= BLOCK`.
void expand_block(
    const Array& y,
    std::int64_t at,
    std::int64_t y_stride,
    std::int64_t tokens,
    const float* h,
    std::int64_t stride,
    const Array& b,
    std::int64_t b_at,
    std::int64_t rank,
    std::int64_t width,
    std::int64_t count) {
    alignas(64) float sums[TOKENS][BLOCK] = {};
    alignas(64) float scratch[BLOCK];
    for (std::int64_t r = 0; r < rank; r++) {
        const float* row = b.read(b_at + r * width, count, scratch);
        for (std::int64_t t = 0; t < tokens; t++) add_scaled(sums[t], row, h[t * stride + r], count);
    }
    for (std::int64_t t = 0; t < tokens; t++) {
        add(sums[t], y.read(at + t * y_stride, count, scratch), count);
        y.write(at + t * y_stride, count, sums[t]);
    }
}

}  // namespace

void expand_tile(
    const Array& y,
    std::int64_t at,
    std::int64_t y_stride,
    std::int64_t tokens,
    const float* h,
    std::int64_t stride,
    const Array& b,
    std::int64_t row,
    std::int64_t rank,
    std::int64_t width,
    std::int64_t column,
    std::int64_t count) {
    const std::int64_t b_at = row * width + column;
#ifdef GRAFTWORK_AVX512
    const auto expand = [&](auto kind) {
        using Kind = decltype(kind);
        using Element = typename Kind::Element;
        expand_avx512<Kind>(
            {reinterpret_cast<Element*>(y.data) + at, y_stride, tokens, h, stride,
             reinterpret_cast<const Element*>(b.data) + b_at, rank, width, count});
    };
    if (y.dtype == Dtype::BF16 && b.dtype == Dtype::BF16 && has_avx512_bf16()) return expand(BFloats{});
    if (y.dtype == Dtype::F32 && b.dtype == Dtype::F32 && has_avx512()) return expand(Floats{});
#endif
    for (std::int64_t t = 0; t < tokens; t += TOKENS)
        for (std::int64_t j = 0; j < count; j += BLOCK)
            expand_block(
                y, at + t * y_stride + j, y_stride, std::min(TOKENS, tokens - t), h + t * stride, stride, b, b_at + j,
                rank, width, std::min(BLOCK, count - j));
}

void lora_expand(
    const Array& y, const Array& h, const Array& b, const Array& start, const Array& rank, const Array& slot) {
    const std::int64_t width = y.shape.at(1), max_rank = h.shape.at(1);
    check_sizes(h.shape.at(0) * width, std::vector<Array>{y});
    check_sizes(h.shape.at(0), std::vector<Array>{slot});
    check_sizes(b.shape.at(0) * width, std::vector<Array>{b});
    check_sizes(start.size, std::vector<Array>{rank});
    const std::vector<Run> runs = runs_of(start, rank, slot, b.shape.at(0), max_rank);
    const float* weights = h.float32();
    std::vector<Tile> tiles;
    for (const Run& run : runs) tile(tiles, run, width, MANY_COLUMNS, TILE_COLUMNS, 0);
    for_each_task(static_cast<std::int64_t>(tiles.size()), worth_threads(runs, width), [&](std::int64_t i) {
        const auto& [run, token, tokens, begin, count, part] = tiles[static_cast<std::size_t>(i)];
        const std::int64_t first = run->first + token;
        expand_tile(
            y, first * width + begin, width, tokens, weights + first * max_rank, max_rank, b, run->start, run->rank,
            width, begin, count);
    });
}

}  // namespace graftwork
