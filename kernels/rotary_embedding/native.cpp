// The CPU twin of rotary_embedding. The rows of x may lie further apart than those of y.
#include "../native.h"
#include "../threads.h"
#include "../vectors.h"

namespace graftwork {
namespace {

constexpr std::int64_t COST = 8;  // of an element, in multiplications

LEAF void multiply(float* RESTRICT to, const float* RESTRICT x, const float* RESTRICT factor, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) to[j] = x[j] * factor[j];
}

LEAF void add(float* RESTRICT to, const float* RESTRICT x, float sign, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) to[j] += sign * x[j];
}

// y[at + j] = x[from + j] cos[turn + j] + sign * x[other + j] sin[turn + j]
struct Half {
    std::int64_t at, from, other, turn, count;
    float sign;
};

void by_blocks(const Array& y, const Array& x, const Array& cos, const Array& sin, const Half& is) {
    Block given, factors, made, added;
    for (std::int64_t j = 0; j < is.count; j += BLOCK) {
        const std::int64_t count = std::min(BLOCK, is.count - j);
        const auto product = [&](float* to, std::int64_t from, const Array& factor) {
            multiply(to, x.read(from + j, count, given.values), factor.read(is.turn + j, count, factors.values), count);
            if (y.dtype == Dtype::F16 || y.dtype == Dtype::BF16) {  // rounded through y
                y.write(is.at + j, count, to);
                y.read(is.at + j, count, to);
            }
        };
        product(made.values, is.from, cos);
        product(added.values, is.other, sin);
        add(made.values, added.values, is.sign, count);
        y.write(is.at + j, count, made.values);
    }
}

#ifdef GRAFTWORK_AVX512
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
template <typename Kind>
void by_vectors(const Array& y, const Array& x, const Array& cos, const Array& sin, const Half& is) {
    using Element = typename Kind::Element;
    const auto at = [](const Array& array, std::int64_t first) { return reinterpret_cast<Element*>(array.data) + first; };
    const __m512 sign = _mm512_set1_ps(is.sign);
    for (std::int64_t j = 0; j < is.count; j += LANE) {
        const __mmask16 mask = columns_left(is.count - j);
        const __m512 straight = Kind::load(at(x, is.from + j), mask) * Kind::load(at(cos, is.turn + j), mask);
        const __m512 turned = Kind::load(at(x, is.other + j), mask) * Kind::load(at(sin, is.turn + j), mask);
        Kind::store(at(y, is.at + j), mask, Kind::rounded(straight) + Kind::rounded(turned) * sign);
    }
}
#pragma GCC pop_options
#endif

using Compute = void (*)(const Array&, const Array&, const Array&, const Array&, const Half&);

Compute fastest(Dtype dtype) {
#ifdef GRAFTWORK_AVX512
    if (dtype == Dtype::BF16 && has_avx512_bf16()) return by_vectors<BFloats>;
    if (dtype == Dtype::F32 && has_avx512()) return by_vectors<Floats>;
#endif
    return by_blocks;
}

}  // namespace

void rotary_embedding(const Array& y, const Array& x, const Array& cos, const Array& sin) {
    const std::int64_t tokens = y.shape.at(0), heads = y.shape.at(1), width = y.shape.at(2), half = width / 2;
    check_sizes(tokens * width, std::vector<Array>{cos, sin});
    const std::int64_t stride = tokens ? x.size / tokens : 0;
    if (stride * tokens != x.size || (tokens && stride < heads * width))
        throw std::invalid_argument("the rows of x are too short");
    const Compute compute = fastest(y.dtype);
    split(tokens, COST * y.size, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t t = begin; t < end; t++)
            for (std::int64_t h = 0; h < heads; h++) {
                const std::int64_t to = (t * heads + h) * width, from = t * stride + h * width, turn = t * width;
                compute(y, x, cos, sin, {to, from, from + half, turn, half, -1.f});
                compute(y, x, cos, sin, {to + half, from + half, from, turn + half, half, 1.f});
            }
    });
}

}  // namespace graftwork
