// The CPU twin of variance.
#include <algorithm>

#include "../native.h"

namespace graftwork {
namespace {

LEAF void subtract_and_add(
    float* RESTRICT difference,
    float* RESTRICT sum,
    const float* RESTRICT x,
    const float* RESTRICT base,
    std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) {
        const float d = x[j] - base[j];
        difference[j] = d;
        sum[j] += d;
    }
}

LEAF void divide(float* values, float divisor, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) values[j] /= divisor;
}

LEAF void add_squares(
    float* RESTRICT sum, const float* RESTRICT difference, const float* RESTRICT mean, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) {
        const float deviation = difference[j] - mean[j];
        sum[j] += deviation * deviation;
    }
}

}  // namespace

void variance(const Array& out, const Array& base, const std::vector<Array>& inputs) {
    check_sizes(out.size, inputs);
    check_sizes(out.size, base);
    const float n = static_cast<float>(inputs.size());
    std::vector<Block> differences(inputs.size());
    alignas(64) float x_scratch[BLOCK], base_scratch[BLOCK], mean[BLOCK], squares[BLOCK];
    for (std::int64_t first = 0; first < out.size; first += BLOCK) {
        const std::int64_t count = std::min(BLOCK, out.size - first);
        const float* origin = base.read(first, count, base_scratch);
        clear(mean, count);
        clear(squares, count);
        for (std::size_t i = 0; i < inputs.size(); i++)
            subtract_and_add(differences[i].values, mean, inputs[i].read(first, count, x_scratch), origin, count);
        divide(mean, n, count);
        for (const Block& difference : differences) add_squares(squares, difference.values, mean, count);
        divide(squares, n, count);
        out.write(first, count, squares);
    }
}

}  // namespace graftwork
