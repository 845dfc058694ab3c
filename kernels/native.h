// The native twins. Arguments and results are those of each kernel's `run` in Python, specified by its docstring there.
#pragma once

#include <initializer_list>
#include <stdexcept>
#include <tuple>
#include <variant>

#include "array.h"

namespace graftwork {

void weighted_sum(
    const Array& out,
    const std::vector<Array>& inputs,
    const std::vector<float>& weights,
    const OptionalArray& base,
    float scale);

void magnitude_histogram(
    const Array& out, const Array& x, const OptionalArray& base, std::optional<std::int32_t> prefix);

void magnitudes_between(
    const Array& counts,
    const Array& values,
    const Array& x,
    const OptionalArray& base,
    const std::vector<std::int32_t>& lows,
    const std::vector<std::int32_t>& highs);

std::int64_t nth_equal(const Array& x, const OptionalArray& base, std::int32_t bits, std::int64_t n);

void ties_combine(
    const Array& out,
    const Array& base,
    const std::vector<Array>& inputs,
    const std::vector<float>& weights,
    const std::vector<std::int32_t>& thresholds,
    const std::vector<std::int64_t>& cutoffs,
    std::int64_t offset,
    float scale,
    const std::string& vote,
    const std::string& divide,
    float zero_sign);

std::int64_t ties_votes(
    const Array& base,
    const std::vector<Array>& inputs,
    const std::vector<std::int32_t>& thresholds,
    const std::vector<std::int64_t>& cutoffs,
    std::int64_t offset);

// An input's chances: one, one for each element, or by rank: the lowest, the highest and the width of a row.
using ByRank = std::tuple<float, float, std::int64_t>;
using Chance = std::variant<float, Array, ByRank>;

// An input's mask: floor and its cutoff, ceiling and its cutoff, chance, key, factor (none: one over the chance).
using Mask = std::
    tuple<std::int32_t, std::int64_t, std::int32_t, std::int64_t, Chance, std::uint64_t, std::optional<float>>;

void sparse_combine(
    const Array& out,
    const Array& base,
    const std::vector<Array>& inputs,
    const std::vector<float>& weights,
    const std::vector<Mask>& masks,
    std::int64_t offset,
    float scale,
    const std::string& vote,
    const std::string& divide);

void philox(const Array& out, std::uint64_t key, std::int64_t offset);

void rank_chances(
    const Array& out, const Array& x, const OptionalArray& base, std::int64_t width, float low, float high);

void consensus_combine(
    const Array& out,
    const Array& base,
    const std::vector<Array>& inputs,
    const OptionalArray& merged,
    const std::vector<float>& mask_lambdas,
    std::int32_t min_agree,
    float scale);

void nearswap(const Array& out, const Array& base, const Array& x, float t, float scale);

void variance(const Array& out, const Array& base, const std::vector<Array>& inputs);

void gram(const Array& out, const std::vector<Array>& inputs, const OptionalArray& base);

void abs_sum(const Array& out, const Array& x, const OptionalArray& base);

// Whether no element, in float32, is infinite or NaN.
bool all_finite(const Array& x);

void axis_weighted_sum(
    const Array& out,
    const std::vector<Array>& inputs,
    const Array& weights,
    std::int64_t columns,
    std::int64_t offset,
    const std::string& axis,
    const OptionalArray& base,
    float scale);

void ram_combine(
    const Array& out,
    const Array& base,
    const std::vector<Array>& inputs,
    float epsilon,
    const std::vector<float>& boosts,
    float scale);

void ram_counts(const Array& out, const Array& base, const std::vector<Array>& inputs, float epsilon);

void row_gram(
    const Array& out,
    const std::vector<Array>& inputs,
    std::int64_t columns,
    std::int64_t offset,
    const OptionalArray& base);

void linear(const Array& y, const Array& x, const Array& w, const OptionalArray& bias);

// Whether this processor multiplies matrices of a safetensors dtype at its full speed in `linear`.
bool has_fast_linear(const std::string& dtype);

void rms_norm(const Array& y, const Array& x, const Array& weight, float eps);

void gated_product(const Array& out, const Array& gate, const Array& up, const std::string& activation);

// Rows of x, of which there are as many as y has, may be longer than what is taken of them.
void rotary_embedding(const Array& y, const Array& x, const Array& cos, const Array& sin);

void lora_shrink(
    const Array& h, const Array& x, const Array& a, const Array& start, const Array& rank, const Array& slot);

void lora_expand(
    const Array& y, const Array& h, const Array& b, const Array& start, const Array& rank, const Array& slot);

// See kernels/lora_fill.py.
std::optional<std::size_t> lora_fill(
    const std::vector<Array>& rows,
    std::uintptr_t content,
    const std::vector<std::pair<std::int64_t, std::string>>& places,
    const std::vector<std::optional<float>>& scales);

void paged_attention(
    const Array& out,
    const Array& q,
    const Array& keys,
    const Array& values,
    const Array& pages,
    const Array& spans,
    float scale,
    std::int64_t window);

void paged_store(
    const Array& keys, const Array& values, const Array& key, const Array& value, const Array& pages, const Array& spans);

// Threads that one large call of the kernels of inference (those below linear) may use; every other twin runs on its caller's.
void set_threads(int threads);

// Throws std::invalid_argument unless every per-input list has one item an input.
inline void check_counts(std::size_t expected, std::initializer_list<std::size_t> counts) {
    for (const std::size_t count : counts)
        if (count != expected) throw std::invalid_argument("a list has another length than the inputs");
}

}  // namespace graftwork
