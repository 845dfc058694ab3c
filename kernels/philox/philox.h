// Philox4x32-10, the counter-based generator of Salmon et al., doi:10.1145/2063384.2063405.
#pragma once

#include "../array.h"

namespace graftwork {

// The words of a block of elements that may begin inside a counter's four.
struct alignas(64) Words {
    std::uint32_t values[BLOCK + 64];
};


inline void philox_round(std::uint32_t (&c)[4], std::uint32_t k0, std::uint32_t k1) {
    const std::uint64_t first = std::uint64_t{0xD2511F53u} * c[0];
    const std::uint64_t second = std::uint64_t{0xCD9E8D57u} * c[2];
    const std::uint32_t c1 = c[1], c3 = c[3];
    c[0] = static_cast<std::uint32_t>(second >> 32) ^ c1 ^ k0;
    c[1] = static_cast<std::uint32_t>(second);
    c[2] = static_cast<std::uint32_t>(first >> 32) ^ c3 ^ k1;
    c[3] = static_cast<std::uint32_t>(first);
}

// Four words for each of the `count` counters from `first` on.
LEAF void philox_blocks(std::uint32_t* RESTRICT words, std::uint64_t key, std::uint64_t first, std::int64_t count) {
    const std::uint32_t low = static_cast<std::uint32_t>(first), high = static_cast<std::uint32_t>(first >> 32);
    for (std::int64_t j = 0; j < count; j++) {
        const std::uint32_t at = low + static_cast<std::uint32_t>(j);
        std::uint32_t c[4] = {at, high + (at < low), 0, 0};
        std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
#pragma GCC unroll 10
        for (int round = 0; round < 10; round++) {
            philox_round(c, k0, k1);
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        for (int word = 0; word < 4; word++) words[4 * j + word] = c[word];
    }
}

// The words of `count <= BLOCK` elements from `position` on; the result points into `scratch`.
inline const std::uint32_t* philox_words(
    Words& scratch, std::uint64_t key, std::int64_t position, std::int64_t count) {
    const std::int64_t lead = position & 3;
    philox_blocks(scratch.values, key, static_cast<std::uint64_t>(position >> 2), (lead + count + 3) >> 2);
    return scratch.values + lead;
}

}  // namespace graftwork
