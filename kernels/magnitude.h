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

// Call `visit(bits, first, count)` for each block of x - base until it returns false.
template <typename Visit>
void for_each_magnitude_block(const Array& x, const OptionalArray& base, Visit visit) {
    check_sizes(x.size, base);
    alignas(64) float x_scratch[BLOCK];
    alignas(64) float base_scratch[BLOCK] = {};
    alignas(64) std::int32_t bits[BLOCK];
    for (std::int64_t first = 0; first < x.size; first += BLOCK) {
        const std::int64_t count = std::min(BLOCK, x.size - first);
        const float* origin = read_or_zeros(base, first, count, base_scratch);
        block_magnitudes(bits, x.read(first, count, x_scratch), origin, count);
        if (!visit(bits, first, count)) return;
    }
}

}  // namespace graftwork
