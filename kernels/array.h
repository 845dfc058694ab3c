// A contiguous array in host memory, as Python describes it, and its elements in float32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

// A leaf is a small function around one loop: compiled for three generations of x86-64 and chosen at load time, never
// inlined, so that its __restrict pointers let the loop be vectorised.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define LEAF __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4"), noinline)) static
#elif defined(__GNUC__)
#define LEAF __attribute__((noinline)) static
#else
#define LEAF static
#endif

#define RESTRICT __restrict

// Ask for the cache line at an address before it is needed.
#if defined(__GNUC__)
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define PREFETCH(address) ((void)(address))
#endif

namespace graftwork {

constexpr std::int64_t BLOCK = 256;  // elements of a scratch buffer: small, so that computing and reading memory alternate

inline float float_of_bfloat16(std::uint16_t value) {
    const std::uint32_t bits = static_cast<std::uint32_t>(value) << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof wide);
    return wide;
}

// Not std::fill: for so few it would be inlined as a string instruction, which starts slowly.
[[maybe_unused]] LEAF void clear(float* values, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) values[j] = 0.f;
}

// A scratch buffer, aligned so that no vector load crosses a cache line.
struct alignas(64) Block {
    float values[BLOCK];
};

// A cache line, for larger ones.
struct alignas(64) Line {
    char bytes[64];
};

enum class Dtype { F64, F32, F16, BF16, I64, I32 };

struct Array {
    Array(std::uintptr_t address, const std::string& dtype, std::vector<std::int64_t> shape);

    char* data;
    Dtype dtype;
    std::vector<std::int64_t> shape;
    std::int64_t size;

    std::int64_t itemsize() const;

    // Those from `begin` to `end` of its first dimension; throws std::out_of_range where there are none.
    Array rows(std::int64_t begin, std::int64_t end) const;

    // The elements as T; throws std::invalid_argument when the array holds another dtype.
    std::int32_t* int32() const;
    std::int64_t* int64() const;
    std::uint16_t* bfloat16() const;  // the high halves of float32
    float* float32() const;
    double* float64() const;

    // `count <= BLOCK` elements from `first` on, in float32: in place when they are, else converted into `scratch`.
    const float* read(std::int64_t first, std::int64_t count, float* scratch) const;

    // Round `count <= BLOCK` values to the dtype, to nearest even, and write them from `first` on.
    void write(std::int64_t first, std::int64_t count, const float* values) const;
};

using OptionalArray = std::optional<Array>;

// `read` of an array that may be absent: then zeros, which `zeros` must hold.
const float* read_or_zeros(const OptionalArray& array, std::int64_t first, std::int64_t count, float* zeros);

// Throws std::invalid_argument unless every array has `size` elements.
void check_sizes(std::int64_t size, const std::vector<Array>& arrays);
void check_sizes(std::int64_t size, const OptionalArray& array);

}  // namespace graftwork
