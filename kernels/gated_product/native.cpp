// The CPU twin of gated_product.
#include "../exponential.h"
#include "../native.h"
#include "../threads.h"
#include "../vectors.h"

namespace graftwork {
namespace {

constexpr std::int64_t COST = 16;  // of an element, in multiplications

// Both activations are x times a sigmoid of s: x itself, or that of the tanh in gelu, 2 sqrt(2 / pi) (x + 0.044715 x^3).
constexpr float LINEAR = 1.5957691216057308f, CUBIC = LINEAR * 0.044715f;

LEAF void silu(float* RESTRICT to, const float* RESTRICT x, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) to[j] = x[j] / (exponential(-x[j]) + 1.f);
}

LEAF void gelu_tanh(float* RESTRICT to, const float* RESTRICT x, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++)
        to[j] = x[j] / (exponential(-x[j] * (x[j] * x[j] * CUBIC + LINEAR)) + 1.f);
}

LEAF void multiply(float* RESTRICT to, const float* RESTRICT factor, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) to[j] *= factor[j];
}

void by_blocks(
    const Array& out, const Array& gate, const Array& up, bool is_silu, std::int64_t begin, std::int64_t end) {
    Block given, made;
    for (std::int64_t j = begin; j < end; j += BLOCK) {
        const std::int64_t count = std::min(BLOCK, end - j);
        (is_silu ? silu : gelu_tanh)(made.values, gate.read(j, count, given.values), count);
        if (out.dtype == Dtype::F16 || out.dtype == Dtype::BF16) {  // rounded as the activation is, through the output
            out.write(j, count, made.values);
            out.read(j, count, made.values);
        }
        multiply(made.values, up.read(j, count, given.values), count);
        out.write(j, count, made.values);
    }
}

#ifdef GRAFTWORK_AVX512
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
template <typename Kind>
void by_vectors(const Array& out, const Array& gate, const Array& up, bool is_silu, std::int64_t begin, std::int64_t end) {
    using Element = typename Kind::Element;
    const auto *x = reinterpret_cast<const Element*>(gate.data), *factor = reinterpret_cast<const Element*>(up.data);
    auto* to = reinterpret_cast<Element*>(out.data);
    for (std::int64_t j = begin; j < end; j += LANE) {
        const __mmask16 mask = columns_left(end - j);
        const __m512 given = Kind::load(x + j, mask);
        const __m512 steep = is_silu ? given : given * (given * given * CUBIC + LINEAR);
        const __m512 active = Kind::rounded(given / (exponential(-steep) + 1.f));
        Kind::store(to + j, mask, active * Kind::load(factor + j, mask));
    }
}
#pragma GCC pop_options
#endif

using Compute = void (*)(const Array&, const Array&, const Array&, bool, std::int64_t, std::int64_t);

Compute fastest(Dtype dtype) {
#ifdef GRAFTWORK_AVX512
    if (dtype == Dtype::BF16 && has_avx512_bf16()) return by_vectors<BFloats>;
    if (dtype == Dtype::F32 && has_avx512()) return by_vectors<Floats>;
#endif
    return by_blocks;
}

}  // namespace

void gated_product(const Array& out, const Array& gate, const Array& up, const std::string& activation) {
    check_sizes(out.size, std::vector<Array>{gate, up});
    const Compute compute = fastest(out.dtype);
    split((out.size + BLOCK - 1) / BLOCK, COST * out.size, [&](std::int64_t begin, std::int64_t end) {
        compute(out, gate, up, activation == "silu", begin * BLOCK, std::min(out.size, end * BLOCK));
    });
}

}  // namespace graftwork
