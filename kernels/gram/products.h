// The dot products of differences, shared by gram and row_gram.
#pragma once

#include <algorithm>
#include <vector>

#include "../array.h"
#include "../lanes.h"

namespace graftwork {

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

// The products of every pair of inputs, over one stretch of elements after another.
class Products {
   public:
    Products(const std::vector<Array>& inputs, const OptionalArray& base)
        : inputs_(inputs), base_(base), differences_(inputs.size()), lanes_(inputs.size() * inputs.size() * LANES) {}

    // Write the products of elements `start` .. `stop` to `out`: float64 [n, n].
    void write(double* out, std::int64_t start, std::int64_t stop) {
        const std::size_t n = inputs_.size();
        std::fill(lanes_.begin(), lanes_.end(), 0.0);
        for (std::int64_t first = start; first < stop; first += BLOCK) {
            const std::int64_t count = std::min(BLOCK, stop - first);
            const float* origin = read_or_zeros(base_, first, count, base_scratch_);
            for (std::size_t i = 0; i < n; i++)
                subtract(differences_[i].values, inputs_[i].read(first, count, x_scratch_), origin, count);
            for (std::size_t i = 0; i < n; i++)
                for (std::size_t j = 0; j <= i; j++)
                    add_products(&lanes_[(i * n + j) * LANES], differences_[i].values, differences_[j].values, count);
        }
        for (std::size_t i = 0; i < n; i++)
            for (std::size_t j = 0; j <= i; j++) out[i * n + j] = out[j * n + i] = add_lanes(&lanes_[(i * n + j) * LANES]);
    }

   private:
    const std::vector<Array>& inputs_;
    const OptionalArray& base_;
    std::vector<Block> differences_;
    std::vector<double> lanes_;
    alignas(64) float x_scratch_[BLOCK];
    alignas(64) float base_scratch_[BLOCK] = {};
};

}  // namespace graftwork
