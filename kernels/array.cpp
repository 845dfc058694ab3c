#include "array.h"

#include <cstring>
#include <stdexcept>

namespace graftwork {
namespace {

constexpr std::int64_t LINE = 64;  // bytes that a cache fetches together
constexpr std::int64_t AHEAD = 4 * BLOCK;  // elements between what is read and what is asked for

inline float float_from_bits(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline std::uint32_t bits_of(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

LEAF void from_float64(float* RESTRICT to, const double* RESTRICT from, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) to[j] = static_cast<float>(from[j]);
}

LEAF void to_float64(double* RESTRICT to, const float* RESTRICT from, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) to[j] = from[j];
}

LEAF void from_bfloat16(float* RESTRICT to, const std::uint16_t* RESTRICT from, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) to[j] = float_of_bfloat16(from[j]);
}

LEAF void to_bfloat16(std::uint16_t* RESTRICT to, const float* RESTRICT from, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) {
        const std::uint32_t bits = bits_of(from[j]);
        const std::uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
        const std::uint32_t quiet = bits | 0x400000;  // adding could carry a NaN into an infinity
        to[j] = static_cast<std::uint16_t>(((bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded) >> 16);
    }
}

// Both float16 conversions treat normal, subnormal and non-finite numbers side by side and select, without branches.
// Subnormals are handled by adding a power of two whose last place is theirs: after Fabian Giesen,
// gist.github.com/rygorous/2156668 and 2144712.
LEAF void from_float16(float* RESTRICT to, const std::uint16_t* RESTRICT from, std::int64_t count) {
    constexpr std::uint32_t exponent = 0x7c00u << 13;
    for (std::int64_t j = 0; j < count; j++) {
        const std::uint32_t half = from[j];
        const std::uint32_t shifted = (half & 0x7fff) << 13;
        const std::uint32_t normal = shifted + ((127 - 15) << 23);
        const std::uint32_t non_finite = normal + ((128 - 16) << 23);
        const std::uint32_t subnormal = bits_of(float_from_bits(normal + (1 << 23)) - float_from_bits(113 << 23));
        std::uint32_t bits = (shifted & exponent) == 0 ? subnormal : normal;
        bits = (shifted & exponent) == exponent ? non_finite : bits;
        to[j] = float_from_bits(bits | (half & 0x8000) << 16);
    }
}

LEAF void to_float16(std::uint16_t* RESTRICT to, const float* RESTRICT from, std::int64_t count) {
    constexpr std::uint32_t magic = ((127 - 15) + (23 - 10) + 1) << 23;
    for (std::int64_t j = 0; j < count; j++) {
        const std::uint32_t bits = bits_of(from[j]);
        const std::uint32_t magnitude = bits & 0x7fffffff;
        const std::uint32_t subnormal = bits_of(float_from_bits(magnitude) + float_from_bits(magic)) - magic;
        const std::uint32_t odd = (magnitude >> 13) & 1;
        const std::uint32_t normal = (magnitude - ((127 - 15) << 23) + 0xfff + odd) >> 13;
        std::uint32_t half = magnitude < (113u << 23) ? subnormal : normal;
        half = magnitude >= (143u << 23) ? 0x7c00 : half;
        half = magnitude > 0x7f800000 ? 0x7e00 : half;
        to[j] = static_cast<std::uint16_t>(half | (bits & 0x80000000) >> 16);
    }
}

Dtype parse(const std::string& name) {
    if (name == "F64") return Dtype::F64;
    if (name == "F32") return Dtype::F32;
    if (name == "F16") return Dtype::F16;
    if (name == "BF16") return Dtype::BF16;
    if (name == "I64") return Dtype::I64;
    if (name == "I32") return Dtype::I32;
    throw std::invalid_argument("the native kernels do not take " + name);
}

template <typename T>
T* elements(const Array& array, Dtype expected) {
    if (array.dtype != expected) throw std::invalid_argument("an array has another dtype than the kernel expects");
    return reinterpret_cast<T*>(array.data);
}

}  // namespace

Array::Array(std::uintptr_t address, const std::string& name, std::vector<std::int64_t> dimensions)
    : data(reinterpret_cast<char*>(address)), dtype(parse(name)), shape(std::move(dimensions)), size(1) {
    for (const std::int64_t dimension : shape) size *= dimension;
}

std::int64_t Array::itemsize() const {
    switch (dtype) {
        case Dtype::F64:
        case Dtype::I64:
            return 8;
        case Dtype::F32:
        case Dtype::I32:
            return 4;
        default:
            return 2;
    }
}

Array Array::rows(std::int64_t begin, std::int64_t end) const {
    if (shape.empty() || begin < 0 || end < begin || end > shape[0])
        throw std::out_of_range(
            "rows " + std::to_string(begin) + " to " + std::to_string(end) + " of " +
            std::to_string(shape.empty() ? 0 : shape[0]) + " do not exist");
    Array found = *this;
    const std::int64_t row = shape[0] ? size / shape[0] : 0;
    found.data = data + begin * row * itemsize();
    found.shape[0] = end - begin;
    found.size = row * (end - begin);
    return found;
}

std::int32_t* Array::int32() const { return elements<std::int32_t>(*this, Dtype::I32); }
std::int64_t* Array::int64() const { return elements<std::int64_t>(*this, Dtype::I64); }
std::uint16_t* Array::bfloat16() const { return elements<std::uint16_t>(*this, Dtype::BF16); }
float* Array::float32() const { return elements<float>(*this, Dtype::F32); }
double* Array::float64() const { return elements<double>(*this, Dtype::F64); }

const float* Array::read(std::int64_t first, std::int64_t count, float* scratch) const {
    const char* from = data + first * itemsize();
    const char* ahead = from + AHEAD * itemsize();
    for (const char* line = ahead; line < ahead + count * itemsize(); line += LINE) PREFETCH(line);
    switch (dtype) {
        case Dtype::F32:
            return reinterpret_cast<const float*>(from);
        case Dtype::F64:
            from_float64(scratch, reinterpret_cast<const double*>(from), count);
            return scratch;
        case Dtype::F16:
            from_float16(scratch, reinterpret_cast<const std::uint16_t*>(from), count);
            return scratch;
        case Dtype::BF16:
            from_bfloat16(scratch, reinterpret_cast<const std::uint16_t*>(from), count);
            return scratch;
        default:
            throw std::invalid_argument("an integer array was given where weights are expected");
    }
}

void Array::write(std::int64_t first, std::int64_t count, const float* values) const {
    char* to = data + first * itemsize();
    switch (dtype) {
        case Dtype::F32:
            std::memcpy(to, values, static_cast<std::size_t>(count) * sizeof(float));
            return;
        case Dtype::F64:
            return to_float64(reinterpret_cast<double*>(to), values, count);
        case Dtype::F16:
            return to_float16(reinterpret_cast<std::uint16_t*>(to), values, count);
        case Dtype::BF16:
            return to_bfloat16(reinterpret_cast<std::uint16_t*>(to), values, count);
        default:
            throw std::invalid_argument("an integer array was given where weights are expected");
    }
}

const float* read_or_zeros(const OptionalArray& array, std::int64_t first, std::int64_t count, float* zeros) {
    return array ? array->read(first, count, zeros) : zeros;
}

void check_sizes(std::int64_t size, const std::vector<Array>& arrays) {
    for (const Array& array : arrays)
        if (array.size != size) throw std::invalid_argument("the arrays differ in size");
}

void check_sizes(std::int64_t size, const OptionalArray& array) {
    if (array && array->size != size) throw std::invalid_argument("the arrays differ in size");
}

}  // namespace graftwork
