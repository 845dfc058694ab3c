// The CPU twin of nearswap.
#include <algorithm>

#include "../native.h"

namespace graftwork {
namespace {

// A NaN passes both comparisons and stays.
LEAF void step_towards(
    float* RESTRICT result,
    const float* RESTRICT x,
    const float* RESTRICT base,
    float t,
    float scale,
    std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) {
        const float d = x[j] - base[j];
        const float most = d > t ? t : d;
        result[j] = base[j] + scale * (most < -t ? -t : most);
    }
}

}  // namespace

void nearswap(const Array& out, const Array& base, const Array& x, float t, float scale) {
    check_sizes(out.size, OptionalArray(base));
    check_sizes(out.size, OptionalArray(x));
    alignas(64) float x_scratch[BLOCK], base_scratch[BLOCK], result[BLOCK];
    for (std::int64_t first = 0; first < out.size; first += BLOCK) {
        const std::int64_t count = std::min(BLOCK, out.size - first);
        step_towards(
            result, x.read(first, count, x_scratch), base.read(first, count, base_scratch), t, scale, count);
        out.write(first, count, result);
    }
}

}  // namespace graftwork
