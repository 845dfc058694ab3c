// The CPU twin of ram_combine.
#include <algorithm>
#include <cmath>

#include "../native.h"

namespace graftwork {
namespace {

LEAF void add_counted(
    float* RESTRICT shared,
    float* RESTRICT alone,
    float* RESTRICT many,
    const float* RESTRICT x,
    const float* RESTRICT base,
    float epsilon,
    float boost,
    std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) {
        const float difference = x[j] - base[j];
        const bool counts = !(std::fabs(difference) <= epsilon);  // also a NaN
        const float kept = counts ? difference : 0.f;
        shared[j] += kept;
        alone[j] += boost * kept;
        many[j] += counts ? 1.f : 0.f;
    }
}

LEAF void finish(
    float* RESTRICT shared,
    const float* RESTRICT alone,
    const float* RESTRICT many,
    const float* RESTRICT base,
    float scale,
    std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) {
        const float mean = shared[j] / (many[j] < 1.f ? 1.f : many[j]);
        shared[j] = base[j] + scale * (many[j] == 1.f ? alone[j] : mean);
    }
}

}  // namespace

void ram_combine(
    const Array& out,
    const Array& base,
    const std::vector<Array>& inputs,
    float epsilon,
    const std::vector<float>& boosts,
    float scale) {
    check_sizes(out.size, inputs);
    check_sizes(out.size, OptionalArray(base));
    check_counts(inputs.size(), {boosts.size()});
    alignas(64) float shared[BLOCK], alone[BLOCK], many[BLOCK], x_scratch[BLOCK], base_scratch[BLOCK];
    for (std::int64_t first = 0; first < out.size; first += BLOCK) {
        const std::int64_t count = std::min(BLOCK, out.size - first);
        const float* origin = base.read(first, count, base_scratch);
        for (float* sum : {shared, alone, many}) clear(sum, count);
        for (std::size_t i = 0; i < inputs.size(); i++) {
            const float* x = inputs[i].read(first, count, x_scratch);
            add_counted(shared, alone, many, x, origin, epsilon, boosts[i], count);
        }
        finish(shared, alone, many, origin, scale, count);
        out.write(first, count, shared);
    }
}

}  // namespace graftwork
