// The CPU twin of gram.
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

void gram(const Array& out, const std::vector<Array>& inputs, const OptionalArray& base) {
    const std::int64_t n = static_cast<std::int64_t>(inputs.size());
    const std::int64_t size = inputs.at(0).size;
    check_sizes(size, inputs);
    check_sizes(size, base);
    const std::int64_t blocks = (size + SUM_BLOCK - 1) / SUM_BLOCK;
    if (out.size != blocks * n * n) throw std::invalid_argument("the output has another size");
    double* products = out.float64();
    std::vector<Block> differences(inputs.size());
    alignas(64) float x_scratch[BLOCK], base_scratch[BLOCK] = {};
    for (std::int64_t block = 0; block < blocks; block++, products += n * n) {
        std::vector<double> lanes(inputs.size() * inputs.size() * LANES);
        const std::int64_t end = std::min(size, (block + 1) * SUM_BLOCK);
        for (std::int64_t first = block * SUM_BLOCK; first < end; first += BLOCK) {
            const std::int64_t count = std::min(BLOCK, end - first);
            const float* origin = read_or_zeros(base, first, count, base_scratch);
            for (std::int64_t i = 0; i < n; i++)
                subtract(differences[i].values, inputs[i].read(first, count, x_scratch), origin, count);
            for (std::int64_t i = 0; i < n; i++)
                for (std::int64_t j = 0; j <= i; j++)
                    add_products(
                        &lanes[(i * n + j) * LANES], differences[i].values, differences[j].values, count);
        }
        for (std::int64_t i = 0; i < n; i++)
            for (std::int64_t j = 0; j <= i; j++)
                products[i * n + j] = products[j * n + i] = add_lanes(&lanes[(i * n + j) * LANES]);
    }
}

}  // namespace graftwork
