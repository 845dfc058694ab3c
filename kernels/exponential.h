// e to the x: 2^n times Cephes' polynomial (expf) on [-ln 2 / 2, ln 2 / 2]. 0 or tiny below -87, infinite above 88.73.
#pragma once

#include <cstdint>
#include <cstring>

#include "avx512.h"

namespace graftwork {

constexpr float LOG2_E = 1.44269504088896341f;
constexpr float LN2_HIGH = 0.693359375f, LN2_LOW = -2.12194440e-4f;  // their sum is ln 2; the first has few digits
constexpr float LIMIT = 89.f;  // where x is cut off on both sides, far enough for 0 and for infinity
constexpr float COEFFICIENTS[] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                                  4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};

// For loops that are to be vectorised: limits of floats, unlike those of integers, make GCC compute every branch.
inline float exponential(float x) {
    constexpr float rounder = 12582912.f;  // adding it leaves no fraction
    std::uint32_t bits, limit;
    std::memcpy(&bits, &x, sizeof bits);
    std::memcpy(&limit, &LIMIT, sizeof limit);
    const std::uint32_t magnitude = bits & 0x7fffffff;
    bits = (magnitude < limit ? magnitude : limit) | (bits & 0x80000000);
    std::memcpy(&x, &bits, sizeof x);
    const float n = (x * LOG2_E + rounder) - rounder;
    const float r = (x - n * LN2_HIGH) - n * LN2_LOW;
    float p = COEFFICIENTS[0];
    for (int i = 1; i < 6; i++) p = p * r + COEFFICIENTS[i];
    p = (p * r * r + r) + 1.f;
    const std::int32_t power = static_cast<std::int32_t>(n);
    bits = static_cast<std::uint32_t>((power < -126 ? -126 : power) + 126) << 23;
    float half;  // of 2^n, which itself would overflow too early
    std::memcpy(&half, &bits, sizeof half);
    return p * half * 2.f;
}

#ifdef GRAFTWORK_AVX512
#pragma GCC push_options
#pragma GCC target("avx512f")
// The same bits from -87 on.
inline __m512 exponential(__m512 x) {
    const __m512 limit = _mm512_set1_ps(LIMIT);
    x = _mm512_max_ps(_mm512_min_ps(x, limit), -limit);
    const __m512 n = _mm512_roundscale_ps(x * LOG2_E, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 r = (x - n * LN2_HIGH) - n * LN2_LOW;
    __m512 p = _mm512_set1_ps(COEFFICIENTS[0]);
    UNROLL for (int i = 1; i < 6; i++) p = p * r + COEFFICIENTS[i];
    return _mm512_scalef_ps((p * r * r + r) + 1.f, n);
}
#pragma GCC pop_options
#endif

}  // namespace graftwork
