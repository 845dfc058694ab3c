// Attention of many rows to tiles of positions, by AVX-512: with float32 from several pages side by side, sums stay in
// registers. Each row gets the bits that page.h gives it. To be included once.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../vectors.h"

namespace graftwork {
namespace {

constexpr std::int64_t TILE = 64;   // positions
constexpr std::int64_t WIDTH = 16;  // sums and values are padded to its multiples
constexpr int LINES = 4;            // rows of query heads whose sums are in registers at once

}  // namespace
}  // namespace graftwork

#ifdef GRAFTWORK_AVX512
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace graftwork {
namespace {

// to[i * TILE + j] = from[i * page + j]: a page's keys, by column.
template <typename Kind>
void gather_keys(float* to, const typename Kind::Element* from, std::int64_t width, std::int64_t count, std::int64_t page) {
    for (std::int64_t i = 0; i < width; i++)
        for (std::int64_t j = 0; j < count; j += LANE) {
            const __mmask16 mask = columns_left(count - j);
            _mm512_mask_storeu_ps(to + i * TILE + j, mask, Kind::load(from + i * page + j, mask));
        }
}

// to[t * stride + j] = from[t * width + j]: values, zeros up to the stride.
template <typename Kind>
void gather_values(
    float* to, const typename Kind::Element* from, std::int64_t count, std::int64_t width, std::int64_t stride) {
    for (std::int64_t t = 0; t < count; t++)
        for (std::int64_t j = 0; j < stride; j += LANE)
            _mm512_storeu_ps(to + t * stride + j, Kind::load(from + t * width + j, columns_left(width - j)));
}

// Scores of LINES rows with VECTORS vectors of a tile's keys; each adds up its four chains as score_page does, but one
// after the other.
template <int VECTORS>
void score_tile(float* scores, std::int64_t columns, const float* q, const float* keys, std::int64_t width) {
    const std::int64_t whole = width / 4 * 4;
    const auto chain = [&](__m512 (&sums)[LINES][VECTORS], std::int64_t first) {
        UNROLL for (int l = 0; l < LINES; l++)
            UNROLL for (int v = 0; v < VECTORS; v++) sums[l][v] = _mm512_setzero_ps();
        const auto add = [&](std::int64_t i) {
            __m512 key[VECTORS];
            UNROLL for (int v = 0; v < VECTORS; v++) key[v] = _mm512_loadu_ps(keys + i * TILE + v * LANE);
            UNROLL for (int l = 0; l < LINES; l++) {
                const __m512 x = _mm512_set1_ps(q[l * width + i]);
                UNROLL for (int v = 0; v < VECTORS; v++) sums[l][v] = _mm512_fmadd_ps(x, key[v], sums[l][v]);
            }
        };
        for (std::int64_t i = first; i < whole; i += 4) add(i);
        if (first == 0)
            for (std::int64_t i = whole; i < width; i++) add(i);
    };
    const auto join = [&](__m512 (&to)[LINES][VECTORS], const __m512 (&with)[LINES][VECTORS]) {
        UNROLL for (int l = 0; l < LINES; l++)
            UNROLL for (int v = 0; v < VECTORS; v++) to[l][v] = _mm512_add_ps(to[l][v], with[l][v]);
    };
    __m512 half[LINES][VECTORS], other[LINES][VECTORS], sums[LINES][VECTORS];
    chain(half, 0);
    chain(sums, 1);
    join(half, sums);
    chain(other, 2);
    chain(sums, 3);
    join(other, sums);
    join(half, other);
    UNROLL for (int l = 0; l < LINES; l++)
        UNROLL for (int v = 0; v < VECTORS; v++) _mm512_storeu_ps(scores + l * columns + v * LANE, half[l][v]);
}

// The same for so many of a tile's keys, and those that complete a vector.
void score_tile(
    float* scores, std::int64_t columns, const float* q, const float* keys, std::int64_t width, std::int64_t count) {
    switch ((count + LANE - 1) / LANE) {
        case 1: return score_tile<1>(scores, columns, q, keys, width);
        case 2: return score_tile<2>(scores, columns, q, keys, width);
        case 3: return score_tile<3>(scores, columns, q, keys, width);
        default: return score_tile<4>(scores, columns, q, keys, width);
    }
}

// As sum_page, for LINES rows and VECTORS vectors of values; `totals`, if given, take the weights themselves.
template <int VECTORS, bool TOTALS>
void sum_tile(
    float* sums, float* totals, const float* weights, std::int64_t columns, const float* values, std::int64_t count,
    std::int64_t stride) {
    __m512 sum[LINES][VECTORS];
    __m128 total[LINES];
    UNROLL for (int l = 0; l < LINES; l++) {
        UNROLL for (int v = 0; v < VECTORS; v++) sum[l][v] = _mm512_loadu_ps(sums + l * stride + v * LANE);
        if constexpr (TOTALS) total[l] = _mm_set_ss(totals[l]);
    }
    for (std::int64_t t = 0; t < count; t++) {
        __m512 row[VECTORS];
        UNROLL for (int v = 0; v < VECTORS; v++) row[v] = _mm512_loadu_ps(values + t * stride + v * LANE);
        UNROLL for (int l = 0; l < LINES; l++) {
            const __m512 weight = _mm512_set1_ps(weights[l * columns + t]);
            UNROLL for (int v = 0; v < VECTORS; v++) sum[l][v] = _mm512_fmadd_ps(weight, row[v], sum[l][v]);
            if constexpr (TOTALS) total[l] = _mm_add_ss(total[l], _mm512_castps512_ps128(weight));
        }
    }
    UNROLL for (int l = 0; l < LINES; l++) {
        UNROLL for (int v = 0; v < VECTORS; v++) _mm512_storeu_ps(sums + l * stride + v * LANE, sum[l][v]);
        if constexpr (TOTALS) totals[l] = _mm_cvtss_f32(total[l]);
    }
}

// The same for all of a row's values.
void sum_tile(
    float* sums, float* totals, const float* weights, std::int64_t columns, const float* values, std::int64_t count,
    std::int64_t stride) {
    std::int64_t j = 0;
    for (; j + 4 * LANE <= stride; j += 4 * LANE)
        (j ? sum_tile<4, false> : sum_tile<4, true>)(sums + j, totals, weights, columns, values + j, count, stride);
    for (; j < stride; j += LANE)
        (j ? sum_tile<1, false> : sum_tile<1, true>)(sums + j, totals, weights, columns, values + j, count, stride);
}

}  // namespace
}  // namespace graftwork
#pragma GCC pop_options
#endif
