// The CPU twin of weighted_sum: one pass over the inputs. bfloat16 is summed in registers, other dtypes in blocks that
// stay in the first-level cache.
#include <algorithm>
#include <cstring>

#include "../native.h"

namespace graftwork {
namespace {

#if defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define GRAFTWORK_PAIRS 1
#define INLINE inline __attribute__((always_inline)) void

// 32 bfloat16 as they lie in memory are 16 pairs, the even one in a word's low half. Shifted or masked, each half is a
// float32, and no element changes its place in the register.
constexpr std::int64_t LANE = 32;
typedef std::uint32_t Pairs __attribute__((vector_size(2 * LANE)));
typedef float Floats __attribute__((vector_size(2 * LANE)));

INLINE load(Floats& even, Floats& odd, const std::uint16_t* from) {
    Pairs pairs;
    std::memcpy(&pairs, from, sizeof pairs);
    even = reinterpret_cast<Floats>(pairs << 16);
    odd = reinterpret_cast<Floats>(pairs & 0xffff0000);
}

// To nearest even, in the high half; adding could carry a NaN into an infinity.
INLINE round(Pairs& rounded, const Floats& values) {
    const Pairs bits = reinterpret_cast<Pairs>(values);
    rounded = (bits & 0x7fffffff) > 0x7f800000 ? bits | 0x400000 : bits + 0x7fff + ((bits >> 16) & 1);
}

INLINE store(std::uint16_t* to, const Floats& even, const Floats& odd) {
    Pairs low, high;
    round(low, even);
    round(high, odd);
    const Pairs pairs = low >> 16 | (high & 0xffff0000);
    std::memcpy(to, &pairs, sizeof pairs);
}

// `count` is a multiple of LANE.
LEAF void sum_bfloat16(
    std::uint16_t* out,
    const std::uint16_t* const* inputs,
    const float* weights,
    std::int64_t n,
    float scale,
    std::int64_t count) {
    for (std::int64_t j = 0; j < count; j += LANE) {
        Floats even, odd, even_sum, odd_sum;
        load(even, odd, inputs[0] + j);
        even_sum = weights[0] * even;
        odd_sum = weights[0] * odd;
        for (std::int64_t i = 1; i < n; i++) {
            load(even, odd, inputs[i] + j);
            even_sum += weights[i] * even;
            odd_sum += weights[i] * odd;
        }
        store(out + j, even_sum * scale, odd_sum * scale);
    }
}

LEAF void sum_bfloat16_differences(
    std::uint16_t* out,
    const std::uint16_t* const* inputs,
    const float* weights,
    const std::uint16_t* base,
    std::int64_t n,
    float scale,
    std::int64_t count) {
    for (std::int64_t j = 0; j < count; j += LANE) {
        Floats even, odd, even_base, odd_base, even_sum, odd_sum;
        load(even_base, odd_base, base + j);
        load(even, odd, inputs[0] + j);
        even_sum = weights[0] * (even - even_base);
        odd_sum = weights[0] * (odd - odd_base);
        for (std::int64_t i = 1; i < n; i++) {
            load(even, odd, inputs[i] + j);
            even_sum += weights[i] * (even - even_base);
            odd_sum += weights[i] * (odd - odd_base);
        }
        store(out + j, even_base + scale * even_sum, odd_base + scale * odd_sum);
    }
}
#endif

LEAF void scale_into(float* RESTRICT sum, const float* RESTRICT x, float weight, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) sum[j] = weight * x[j];
}

LEAF void add_scaled(float* RESTRICT sum, const float* RESTRICT x, float weight, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) sum[j] += weight * x[j];
}

LEAF void scale_difference_into(
    float* RESTRICT sum, const float* RESTRICT x, const float* RESTRICT base, float weight, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) sum[j] = weight * (x[j] - base[j]);
}

LEAF void add_scaled_difference(
    float* RESTRICT sum, const float* RESTRICT x, const float* RESTRICT base, float weight, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) sum[j] += weight * (x[j] - base[j]);
}

LEAF void scale_in_place(float* sum, float scale, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) sum[j] *= scale;
}

LEAF void scale_and_add_base(float* RESTRICT sum, const float* RESTRICT base, float scale, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) sum[j] = base[j] + scale * sum[j];
}

// Sum as many elements as registers can; returns how many.
std::int64_t sum_in_registers(
    const Array& out,
    const std::vector<Array>& inputs,
    const std::vector<float>& weights,
    const OptionalArray& base,
    float scale) {
#ifdef GRAFTWORK_PAIRS
    const auto is_bfloat16 = [](const Array& array) { return array.dtype == Dtype::BF16; };
    if (!is_bfloat16(out) || (base && !is_bfloat16(*base)) || !std::all_of(inputs.begin(), inputs.end(), is_bfloat16))
        return 0;
    std::vector<const std::uint16_t*> from;
    for (const Array& input : inputs) from.push_back(input.bfloat16());
    const std::int64_t n = static_cast<std::int64_t>(inputs.size()), count = out.size / LANE * LANE;
    if (base)
        sum_bfloat16_differences(out.bfloat16(), from.data(), weights.data(), base->bfloat16(), n, scale, count);
    else
        sum_bfloat16(out.bfloat16(), from.data(), weights.data(), n, scale, count);
    return count;
#else
    return 0;
#endif
}

}  // namespace

void weighted_sum(
    const Array& out,
    const std::vector<Array>& inputs,
    const std::vector<float>& weights,
    const OptionalArray& base,
    float scale) {
    check_sizes(out.size, inputs);
    check_sizes(out.size, base);
    check_counts(inputs.size(), {weights.size()});
    alignas(64) float sum[BLOCK], x_scratch[BLOCK], base_scratch[BLOCK];
    for (std::int64_t first = sum_in_registers(out, inputs, weights, base, scale); first < out.size; first += BLOCK) {
        const std::int64_t count = std::min(BLOCK, out.size - first);
        const float* origin = base ? base->read(first, count, base_scratch) : nullptr;
        for (std::size_t i = 0; i < inputs.size(); i++) {
            const float* x = inputs[i].read(first, count, x_scratch);
            if (origin)
                (i == 0 ? scale_difference_into : add_scaled_difference)(sum, x, origin, weights[i], count);
            else
                (i == 0 ? scale_into : add_scaled)(sum, x, weights[i], count);
        }
        if (origin)
            scale_and_add_base(sum, origin, scale, count);
        else
            scale_in_place(sum, scale, count);
        out.write(first, count, sum);
    }
}

}  // namespace graftwork
