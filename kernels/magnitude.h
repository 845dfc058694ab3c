// The float32 bit patterns of |x - base|, which order as the magnitudes do.
#pragma once

#include <algorithm>
#include <cstring>

#include "array.h"

namespace graftwork {

inline std::int32_t magnitude_bits(float value) {
    std::int32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits & 0x7fffffff;
}

LEAF void block_magnitudes(
    std::int32_t* RESTRICT bits, const float* RESTRICT x, const float* RESTRICT base, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) bits[j] = magnitude_bits(x[j] - base[j]);
}

LEAF void block_magnitudes(
    std::int32_t* RESTRICT bits,
    const std::uint16_t* RESTRICT x,
    const std::uint16_t* RESTRICT base,
    std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++)
        bits[j] = magnitude_bits(float_of_bfloat16(x[j]) - float_of_bfloat16(base[j]));
}

// Write the patterns of `count <= BLOCK` elements of x - base from `first` on.
inline void read_magnitudes(
    std::int32_t* bits, const Array& x, const OptionalArray& base, std::int64_t first, std::int64_t count) {
    if (base && x.dtype == Dtype::BF16 && base->dtype == Dtype::BF16)
        return block_magnitudes(bits, x.bfloat16() + first, base->bfloat16() + first, count);
    alignas(64) float x_scratch[BLOCK], base_scratch[BLOCK];
    if (!base) std::fill(base_scratch, base_scratch + count, 0.f);
    const float* origin = read_or_zeros(base, first, count, base_scratch);
    block_magnitudes(bits, x.read(first, count, x_scratch), origin, count);
}

// Call `visit(bits, first, count)` for each block of x - base until it returns false.
template <typename Visit>
void for_each_magnitude_block(const Array& x, const OptionalArray& base, Visit visit) {
    check_sizes(x.size, base);
    alignas(64) std::int32_t bits[BLOCK];
    for (std::int64_t first = 0; first < x.size; first += BLOCK) {
        const std::int64_t count = std::min(BLOCK, x.size - first);
        read_magnitudes(bits, x, base, first, count);
        if (!visit(bits, first, count)) return;
    }
}

}  // namespace graftwork
