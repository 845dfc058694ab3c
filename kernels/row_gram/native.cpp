// The CPU twin of row_gram.
#include <algorithm>

#include "../lanes.h"
#include "../native.h"

namespace graftwork {
namespace {

LEAF void subtract(
    float* RESTRICT difference, const float* RESTRICT x, const float* RESTRICT base, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) difference[j] = x[j] - base[j];
}

// `left` and `right` may be the same; a product of two float32 is exact in float64.
LEAF void add_products(double* RESTRICT lanes, const float* left, const float* right, std::int64_t count) {
    std::int64_t j = 0;
    for (; j + LANES <= count; j += LANES)
        for (std::int64_t l = 0; l < LANES; l++) lanes[l] += static_cast<double>(left[j + l]) * right[j + l];
    for (std::int64_t l = 0; j + l < count; l++) lanes[l] += static_cast<double>(left[j + l]) * right[j + l];
}

}  // namespace

void row_gram(
    const Array& out,
    const std::vector<Array>& inputs,
    std::int64_t columns,
    std::int64_t offset,
    const OptionalArray& base) {
    const std::int64_t n = static_cast<std::int64_t>(inputs.size());
    const std::int64_t size = inputs.at(0).size;
    check_sizes(size, inputs);
    check_sizes(size, base);
    if (columns < 1) throw std::invalid_argument("rows have no columns");
    double* products = out.float64();
    const double* end_of_products = products + out.size;
    std::vector<Block> differences(inputs.size());
    std::vector<double> lanes(inputs.size() * inputs.size() * LANES);
    alignas(64) float x_scratch[BLOCK], base_scratch[BLOCK] = {};
    for (std::int64_t start = 0; start < size; products += n * n) {
        if (products + n * n > end_of_products) throw std::invalid_argument("the output has another size");
        const std::int64_t position = offset + start;
        const std::int64_t row_end = (position / columns + 1) * columns;
        const std::int64_t block_end = (position / SUM_BLOCK + 1) * SUM_BLOCK;
        const std::int64_t stop = std::min({row_end, block_end, offset + size}) - offset;
        std::fill(lanes.begin(), lanes.end(), 0.0);
        for (std::int64_t first = start; first < stop; first += BLOCK) {
            const std::int64_t count = std::min(BLOCK, stop - first);
            const float* origin = read_or_zeros(base, first, count, base_scratch);
            for (std::int64_t i = 0; i < n; i++)
                subtract(differences[i].values, inputs[i].read(first, count, x_scratch), origin, count);
            for (std::int64_t i = 0; i < n; i++)
                for (std::int64_t j = 0; j <= i; j++)
                    add_products(&lanes[(i * n + j) * LANES], differences[i].values, differences[j].values, count);
        }
        for (std::int64_t i = 0; i < n; i++)
            for (std::int64_t j = 0; j <= i; j++)
                products[i * n + j] = products[j * n + i] = add_lanes(&lanes[(i * n + j) * LANES]);
        start = stop;
    }
    if (products != end_of_products) throw std::invalid_argument("the output has another size");
}

}  // namespace graftwork
