// The CPU twin of all_finite: the largest bit pattern says it.
#include <algorithm>
#include <cstring>

#include "../native.h"

namespace graftwork {
namespace {

constexpr std::int64_t CHECKED = 16 * BLOCK;  // elements after which it stops at the first that is not finite

LEAF std::uint16_t largest_half(const std::uint16_t* x, std::int64_t count) {
    std::uint16_t largest = 0;
    for (std::int64_t j = 0; j < count; j++) {
        const std::uint16_t magnitude = x[j] & 0x7fff;
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest;
}

LEAF std::uint32_t largest_single(const float* x, std::int64_t count) {
    std::uint32_t largest = 0;
    for (std::int64_t j = 0; j < count; j++) {
        std::uint32_t bits;
        std::memcpy(&bits, x + j, sizeof bits);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

bool block_is_finite(const Array& x, std::int64_t first, std::int64_t count) {
    if (x.dtype == Dtype::BF16 || x.dtype == Dtype::F16) {
        const std::uint16_t infinity = x.dtype == Dtype::BF16 ? 0x7f80 : 0x7c00;
        return largest_half(reinterpret_cast<const std::uint16_t*>(x.data) + first, count) < infinity;
    }
    alignas(64) float scratch[BLOCK];
    for (const std::int64_t end = first + count; first < end; first += BLOCK) {
        const std::int64_t part = std::min(BLOCK, end - first);
        if (largest_single(x.read(first, part, scratch), part) >= 0x7f800000) return false;
    }
    return true;
}

}  // namespace

bool all_finite(const Array& x) {
    for (std::int64_t first = 0; first < x.size; first += CHECKED)
        if (!block_is_finite(x, first, std::min(CHECKED, x.size - first))) return false;
    return true;
}

}  // namespace graftwork
