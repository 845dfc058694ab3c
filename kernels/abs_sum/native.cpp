// The CPU twin of abs_sum.
#include <algorithm>
#include <cmath>

#include "../lanes.h"
#include "../native.h"

namespace graftwork {
namespace {

LEAF void add_magnitudes(
    double* RESTRICT lanes, const float* RESTRICT x, const float* RESTRICT base, std::int64_t count) {
    std::int64_t j = 0;
    for (; j + LANES <= count; j += LANES)
        for (std::int64_t l = 0; l < LANES; l++) lanes[l] += std::fabs(x[j + l] - base[j + l]);
    for (std::int64_t l = 0; j + l < count; l++) lanes[l] += std::fabs(x[j + l] - base[j + l]);
}

}  // namespace

void abs_sum(const Array& out, const Array& x, const OptionalArray& base) {
    check_sizes(x.size, base);
    const std::int64_t blocks = (x.size + SUM_BLOCK - 1) / SUM_BLOCK;
    if (out.size != blocks) throw std::invalid_argument("the output has another size");
    double* sums = out.float64();
    alignas(64) float x_scratch[BLOCK], base_scratch[BLOCK] = {};
    for (std::int64_t block = 0; block < blocks; block++) {
        alignas(64) double lanes[LANES] = {};
        const std::int64_t end = std::min(x.size, (block + 1) * SUM_BLOCK);
        for (std::int64_t first = block * SUM_BLOCK; first < end; first += BLOCK) {
            const std::int64_t count = std::min(BLOCK, end - first);
            const float* origin = read_or_zeros(base, first, count, base_scratch);
            add_magnitudes(lanes, x.read(first, count, x_scratch), origin, count);
        }
        sums[block] = add_lanes(lanes);
    }
}

}  // namespace graftwork
