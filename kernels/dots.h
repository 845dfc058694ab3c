// Dot products of rows with tokens by AVX-512. To be included once, inside a source that is compiled for any processor;
// call nothing of it unless avx512.h says that the processor has the instructions.
#pragma once

#include "avx512.h"

#ifdef GRAFTWORK_AVX512
#include <algorithm>
#include <cstdint>
#include <type_traits>

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace graftwork {
namespace {

// One vector of float32 sums a dot product, in the order of the elements: 16 at a time.
struct FloatDots {
    using Element = float;
    static constexpr std::int64_t STEP = 16;
    static __m512 load(const float* p) { return _mm512_loadu_ps(p); }
    static __m512 load(const float* p, std::int64_t count) {
        return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
    }
    static __m512 add_product(__m512 sum, __m512 x, __m512 a) { return _mm512_fmadd_ps(x, a, sum); }
};

// The same with pairs of bfloat16: 32 elements at a time, their products exact.
struct BFloatDots {
    using Element = std::uint16_t;
    static constexpr std::int64_t STEP = 32;
    static __m512i load(const std::uint16_t* p) { return _mm512_loadu_si512(p); }
    static __m512i load(const std::uint16_t* p, std::int64_t count) {
        return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((std::uint64_t{1} << count) - 1), p);
    }
    static __m512 add_product(__m512 sum, __m512i x, __m512i a) {
        return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(a));
    }
};

// The sums of 16 vectors, in their order, each added up as _mm512_reduce_add_ps does: halves, quarters, pairs.
__m512 sums_of_16(const __m512 (&v)[16]) {
    __m512 halves[8], quarters[4], pairs[2];
    UNROLL for (int i = 0; i < 8; i++)
        halves[i] = _mm512_add_ps(
            _mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0x44), _mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0xee));
    UNROLL for (int i = 0; i < 4; i++)
        quarters[i] = _mm512_add_ps(
            _mm512_shuffle_f32x4(halves[2 * i], halves[2 * i + 1], 0x88),
            _mm512_shuffle_f32x4(halves[2 * i], halves[2 * i + 1], 0xdd));
    UNROLL for (int i = 0; i < 2; i++) {
        const __m512d left = _mm512_castps_pd(quarters[2 * i]), right = _mm512_castps_pd(quarters[2 * i + 1]);
        pairs[i] = _mm512_add_ps(
            _mm512_castpd_ps(_mm512_unpacklo_pd(left, right)), _mm512_castpd_ps(_mm512_unpackhi_pd(left, right)));
    }
    const __m512 all = _mm512_add_ps(
        _mm512_shuffle_ps(pairs[0], pairs[1], 0x88), _mm512_shuffle_ps(pairs[0], pairs[1], 0xdd));
    // Lane l now holds vectors l, l + 4, l + 8, l + 12.
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_ps(order, all);
}

// Elements of one partial sum, whatever the batch: of four rows and eight tokens they fit the first-level cache.
template <typename Kind>
constexpr std::int64_t PART = 32 * Kind::STEP;

// h[t * stride + r] (+)= a[r] . x[t] over `count <= PART` elements; rows are `width` elements apart, tokens `step`.
// Of FETCHED rows from `next` on, the same elements are fetched meanwhile.
template <typename Kind, int ROWS, int TOKENS, int FETCHED>
void dots(
    const typename Kind::Element* x,
    std::int64_t step,
    const typename Kind::Element* a,
    std::int64_t width,
    std::int64_t count,
    bool first,
    float* h,
    std::int64_t stride,
    const typename Kind::Element* next) {
    using Vector = decltype(Kind::load(x));
    __m512 sums[TOKENS * ROWS];
    UNROLL for (int i = 0; i < TOKENS * ROWS; i++) sums[i] = _mm512_setzero_ps();
    std::int64_t i = 0;
    for (; i + Kind::STEP <= count; i += Kind::STEP) {
        UNROLL for (int r = 0; r < FETCHED; r++)
            _mm_prefetch(reinterpret_cast<const char*>(next + r * width + i), _MM_HINT_T0);
        Vector xs[TOKENS];
        UNROLL for (int t = 0; t < TOKENS; t++) xs[t] = Kind::load(x + t * step + i);
        UNROLL for (int r = 0; r < ROWS; r++) {
            const Vector row = Kind::load(a + r * width + i);
            UNROLL for (int t = 0; t < TOKENS; t++)
                sums[t * ROWS + r] = Kind::add_product(sums[t * ROWS + r], xs[t], row);
        }
    }
    if (i < count)
        UNROLL for (int r = 0; r < ROWS; r++) {
            const Vector row = Kind::load(a + r * width + i, count - i);
            UNROLL for (int t = 0; t < TOKENS; t++)
                sums[t * ROWS + r] =
                    Kind::add_product(sums[t * ROWS + r], Kind::load(x + t * step + i, count - i), row);
        }
    if constexpr (TOKENS * ROWS == 16) {
        const __m512 all = sums_of_16(sums);
        UNROLL for (int t = 0; t < TOKENS; t++) {
            float* at = h + t * stride - t * ROWS;
            const __mmask16 mask = static_cast<__mmask16>(((1u << ROWS) - 1) << (t * ROWS));
            const __m512 total = first ? all : _mm512_add_ps(_mm512_maskz_loadu_ps(mask, at), all);
            _mm512_mask_storeu_ps(at, mask, total);
        }
    } else {
        UNROLL for (int t = 0; t < TOKENS; t++)
            UNROLL for (int r = 0; r < ROWS; r++) {
                const float sum = _mm512_reduce_add_ps(sums[t * ROWS + r]);
                h[t * stride + r] = first ? sum : h[t * stride + r] + sum;
            }
    }
}

template <typename Kind, int ROWS, int TOKENS>
void whole_dots(
    const typename Kind::Element* x,
    std::int64_t step,
    const typename Kind::Element* a,
    std::int64_t width,
    float* h,
    std::int64_t stride) {
    for (std::int64_t i = 0; i == 0 || i < width; i += PART<Kind>)
        dots<Kind, ROWS, TOKENS, ROWS>(
            x + i, step, a + i, width, std::min(PART<Kind>, width - i), i == 0, h, stride, a + ROWS * width + i);
}

// As dots_of_tile for TOKENS tokens, fewer than 4: the rows are streams from memory.
template <typename Kind, int TOKENS>
void dots_of_few(
    const typename Kind::Element* x,
    std::int64_t step,
    const typename Kind::Element* a,
    std::int64_t rows,
    std::int64_t width,
    float* h,
    std::int64_t stride) {
    constexpr int ROWS = TOKENS == 1 ? 16 : TOKENS == 2 ? 8 : 5;
    std::int64_t r = 0;
    for (; r + ROWS <= rows; r += ROWS) whole_dots<Kind, ROWS, TOKENS>(x, step, a + r * width, width, h + r, stride);
    for (; r + 4 <= rows; r += 4) whole_dots<Kind, 4, TOKENS>(x, step, a + r * width, width, h + r, stride);
    for (; r < rows; r++) whole_dots<Kind, 1, TOKENS>(x, step, a + r * width, width, h + r, stride);
}

// ROWS rows with `tokens` tokens, at most 4.
template <typename Kind, int ROWS, int FETCHED, typename... Others>
void dots_of_up_to_4(std::int64_t tokens, Others... others) {
    switch (tokens) {
        case 1: return dots<Kind, ROWS, 1, FETCHED>(others...);
        case 2: return dots<Kind, ROWS, 2, FETCHED>(others...);
        case 3: return dots<Kind, ROWS, 3, FETCHED>(others...);
        default: return dots<Kind, ROWS, 4, FETCHED>(others...);
    }
}

// `count` elements each of `rows` rows, to be fetched a few lines at a time between products.
template <typename Element>
struct Coming {
    const Element* row;
    std::int64_t rows, width, count, column = 0;

    static constexpr std::int64_t LINE = 64 / sizeof(Element);

    std::int64_t lines() const { return rows * ((count + LINE - 1) / LINE); }

    void fetch(std::int64_t lines) {
        for (; lines > 0 && rows > 0; lines--) {
            _mm_prefetch(reinterpret_cast<const char*>(row + column), _MM_HINT_T0);
            column += LINE;
            if (column >= count) column = 0, row += width, rows--;
        }
    }
};

// h[t * stride + r] = a[r] . x[t], tokens `step` elements apart. A part of some tokens stays in the first-level cache
// while all rows pass by. What is read next is fetched meanwhile: by few tokens, for whom the rows pass by once, the next
// 4 rows beside each product; by many the rows' next part, or as many rows more, evenly between all products.
template <typename Kind>
void dots_of_tile(
    const typename Kind::Element* x,
    std::int64_t step,
    std::int64_t tokens,
    const typename Kind::Element* a,
    std::int64_t rows,
    std::int64_t width,
    float* h,
    std::int64_t stride) {
    if (tokens == 1) return dots_of_few<Kind, 1>(x, step, a, rows, width, h, stride);
    if (tokens == 2) return dots_of_few<Kind, 2>(x, step, a, rows, width, h, stride);
    if (tokens == 3) return dots_of_few<Kind, 3>(x, step, a, rows, width, h, stride);
    constexpr std::int64_t ONCE = 12, NEAR = 8;
    const std::int64_t whole_rows = rows / 4 * 4, calls = std::max<std::int64_t>(1, (tokens + 3) / 4 * (rows / 4));
    for (std::int64_t i = 0; i == 0 || i < width; i += PART<Kind>) {
        const std::int64_t count = std::min(PART<Kind>, width - i), after = i + count;
        Coming<typename Kind::Element> coming{
            after < width ? a + after : a + rows * width, rows, width,
            std::min(PART<Kind>, after < width ? width - after : width)};
        const std::int64_t lines = (coming.lines() + calls - 1) / calls;
        for (std::int64_t near = 0, end; near < tokens; near = end) {
            end = tokens <= ONCE ? tokens : std::min(near + NEAR, tokens);
            const auto products = [&](auto of, auto fetched, std::int64_t r, std::int64_t t, std::int64_t next) {
                dots_of_up_to_4<Kind, decltype(of)::value, decltype(fetched)::value>(
                    end - t, x + t * step + i, step, a + r * width + i, width, count, i == 0, h + t * stride + r, stride,
                    a + next * width + i);
            };
            using std::integral_constant;
            for (std::int64_t r = 0; r < whole_rows; r += 4)
                for (std::int64_t t = near; t < end; t += 4)
                    if (tokens > ONCE) {
                        coming.fetch(lines);
                        products(integral_constant<int, 4>(), integral_constant<int, 0>(), r, t, r);
                    } else if (tokens > 4)
                        products(integral_constant<int, 4>(), integral_constant<int, 2>(), r, t, r + 4 + (t ? 2 : 0));
                    else
                        products(integral_constant<int, 4>(), integral_constant<int, 4>(), r, t, r + 4);
            for (std::int64_t r = whole_rows; r < rows; r++)
                for (std::int64_t t = near; t < end; t += 4)
                    products(integral_constant<int, 1>(), integral_constant<int, 0>(), r, t, r);
        }
    }
}

}  // namespace
}  // namespace graftwork
#pragma GCC pop_options
#endif
