// Philox4x32-10, the counter-based generator of Salmon et al., doi:10.1145/2063384.2063405.
#pragma once

#include <cstring>

#include "../array.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#endif

namespace graftwork {

// The words of a block of elements that may begin inside a counter's four; vectors of counters may reach beyond it.
struct alignas(64) Words {
    std::uint32_t values[2 * BLOCK];
};

constexpr int PHILOX_ROUNDS = 10;
constexpr std::uint32_t PHILOX_FIRST = 0xD2511F53u, PHILOX_SECOND = 0xCD9E8D57u;
constexpr std::uint32_t PHILOX_WEYL_LOW = 0x9E3779B9u, PHILOX_WEYL_HIGH = 0xBB67AE85u;

// Four words for each of the `count` counters from `first` on.
LEAF void philox_plain(std::uint32_t* RESTRICT words, std::uint64_t key, std::uint64_t first, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) {
        const std::uint64_t at = first + static_cast<std::uint64_t>(j);
        std::uint32_t c[4] = {static_cast<std::uint32_t>(at), static_cast<std::uint32_t>(at >> 32), 0, 0};
        std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
        for (int round = 0; round < PHILOX_ROUNDS; round++, k0 += PHILOX_WEYL_LOW, k1 += PHILOX_WEYL_HIGH) {
            const std::uint64_t a = std::uint64_t{PHILOX_FIRST} * c[0], b = std::uint64_t{PHILOX_SECOND} * c[2];
            c[0] = static_cast<std::uint32_t>(b >> 32) ^ c[1] ^ k0;
            c[1] = static_cast<std::uint32_t>(b);
            c[2] = static_cast<std::uint32_t>(a >> 32) ^ c[3] ^ k1;
            c[3] = static_cast<std::uint32_t>(a);
        }
        for (int word = 0; word < 4; word++) words[4 * j + word] = c[word];
    }
}

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)

// The same by 64-bit lanes whose low halves are the words: compilers do not find the widening multiplication by
// themselves. Whole vectors are written, which hold 8 or 4 counters.
using Lanes512 = unsigned long long __attribute__((vector_size(64)));
using Lanes256 = unsigned long long __attribute__((vector_size(32)));

constexpr int ABREAST = 8;  // vectors that are computed side by side: each waits for its multiplications

__attribute__((target("avx512f"))) inline void philox_512(
    std::uint32_t* words, std::uint64_t key, std::uint64_t first, std::int64_t count) {
    const Lanes512 by_first = PHILOX_FIRST + Lanes512{}, by_second = PHILOX_SECOND + Lanes512{};
    for (std::int64_t j = 0; j < count; j += 8 * ABREAST) {
        Lanes512 c0[ABREAST], c1[ABREAST], c2[ABREAST], c3[ABREAST];
#pragma GCC unroll 8
        for (int v = 0; v < ABREAST; v++) {
            c0[v] = first + static_cast<std::uint64_t>(j + 8 * v) + Lanes512{0, 1, 2, 3, 4, 5, 6, 7};
            c1[v] = c0[v] >> 32, c2[v] = c3[v] = Lanes512{};
        }
        std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
#pragma GCC unroll 10
        for (int round = 0; round < PHILOX_ROUNDS; round++, k0 += PHILOX_WEYL_LOW, k1 += PHILOX_WEYL_HIGH)
#pragma GCC unroll 8
            for (int v = 0; v < ABREAST; v++) {
                const Lanes512 a = (Lanes512)_mm512_maskz_mul_epu32(0xff, (__m512i)c0[v], (__m512i)by_first);
                const Lanes512 b = (Lanes512)_mm512_maskz_mul_epu32(0xff, (__m512i)c2[v], (__m512i)by_second);
                c0[v] = b >> 32 ^ c1[v] ^ (std::uint64_t{k0} + Lanes512{});
                c2[v] = a >> 32 ^ c3[v] ^ (std::uint64_t{k1} + Lanes512{});
                c1[v] = b;
                c3[v] = a;
            }
#pragma GCC unroll 8
        for (int v = 0; v < ABREAST; v++) {
            const Lanes512 x = (c0[v] & 0xffffffff) | c1[v] << 32, y = (c2[v] & 0xffffffff) | c3[v] << 32;
            const Lanes512 front = __builtin_shuffle(x, y, Lanes512{0, 8, 1, 9, 2, 10, 3, 11});
            const Lanes512 back = __builtin_shuffle(x, y, Lanes512{4, 12, 5, 13, 6, 14, 7, 15});
            std::memcpy(words + 4 * (j + 8 * v), &front, sizeof front);
            std::memcpy(words + 4 * (j + 8 * v) + 16, &back, sizeof back);
        }
    }
}

__attribute__((target("avx2"))) inline void philox_256(
    std::uint32_t* words, std::uint64_t key, std::uint64_t first, std::int64_t count) {
    const Lanes256 by_first = PHILOX_FIRST + Lanes256{}, by_second = PHILOX_SECOND + Lanes256{};
    for (std::int64_t j = 0; j < count; j += 4) {
        Lanes256 c0 = first + static_cast<std::uint64_t>(j) + Lanes256{0, 1, 2, 3};
        Lanes256 c1 = c0 >> 32, c2 = {}, c3 = {};
        std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
#pragma GCC unroll 10
        for (int round = 0; round < PHILOX_ROUNDS; round++, k0 += PHILOX_WEYL_LOW, k1 += PHILOX_WEYL_HIGH) {
            const Lanes256 a = (Lanes256)_mm256_mul_epu32((__m256i)c0, (__m256i)by_first);
            const Lanes256 b = (Lanes256)_mm256_mul_epu32((__m256i)c2, (__m256i)by_second);
            c0 = b >> 32 ^ c1 ^ (std::uint64_t{k0} + Lanes256{});
            c2 = a >> 32 ^ c3 ^ (std::uint64_t{k1} + Lanes256{});
            c1 = b;
            c3 = a;
        }
        const Lanes256 x = (c0 & 0xffffffff) | c1 << 32, y = (c2 & 0xffffffff) | c3 << 32;
        const Lanes256 front = __builtin_shuffle(x, y, Lanes256{0, 4, 1, 5});
        const Lanes256 back = __builtin_shuffle(x, y, Lanes256{2, 6, 3, 7});
        std::memcpy(words + 4 * j, &front, sizeof front);
        std::memcpy(words + 4 * j + 8, &back, sizeof back);
    }
}

#endif

inline void philox_blocks(std::uint32_t* words, std::uint64_t key, std::uint64_t first, std::int64_t count) {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    if (__builtin_cpu_supports("avx512f")) return philox_512(words, key, first, count);
    if (__builtin_cpu_supports("avx2")) return philox_256(words, key, first, count);
#endif
    philox_plain(words, key, first, count);
}

// The words of `count <= BLOCK` elements from `position` on; the result points into `scratch`.
inline const std::uint32_t* philox_words(
    Words& scratch, std::uint64_t key, std::int64_t position, std::int64_t count) {
    const std::int64_t lead = position & 3;
    philox_blocks(scratch.values, key, static_cast<std::uint64_t>(position >> 2), (lead + count + 3) >> 2);
    return scratch.values + lead;
}

}  // namespace graftwork
