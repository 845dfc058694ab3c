// The CPU twin of rms_norm: a token at a time, so that its bits do not depend on the batch.
#include <cmath>

#include "../native.h"
#include "../threads.h"

namespace graftwork {
namespace {

constexpr std::int64_t LANES = 16;  // sums side by side, in one order on every machine

LEAF void add_squares(float* RESTRICT sums, const float* RESTRICT x, std::int64_t count) {
    std::int64_t j = 0;
    for (; j + LANES <= count; j += LANES)
        for (std::int64_t lane = 0; lane < LANES; lane++) sums[lane] += x[j + lane] * x[j + lane];
    for (; j < count; j++) sums[j % LANES] += x[j] * x[j];
}

LEAF void scale(float* RESTRICT to, const float* RESTRICT x, std::int64_t count, float factor) {
    for (std::int64_t j = 0; j < count; j++) to[j] = x[j] * factor;
}

LEAF void multiply(float* RESTRICT to, const float* RESTRICT weight, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) to[j] *= weight[j];
}

}  // namespace

void rms_norm(const Array& y, const Array& x, const Array& weight, float eps) {
    const std::int64_t width = weight.size, tokens = width ? x.size / width : 0;
    split(tokens, 4 * x.size, [&](std::int64_t begin, std::int64_t end) {
        Block given, made, weights;
        for (std::int64_t first = begin * width; first < end * width; first += width) {
            float sums[LANES] = {};
            for (std::int64_t j = 0; j < width; j += BLOCK) {
                const std::int64_t count = std::min(BLOCK, width - j);
                add_squares(sums, x.read(first + j, count, given.values), count);
            }
            float sum = 0;
            for (const float each : sums) sum += each;
            const float factor = 1 / std::sqrt(sum / static_cast<float>(width) + eps);
            for (std::int64_t j = 0; j < width; j += BLOCK) {
                const std::int64_t count = std::min(BLOCK, width - j);
                scale(made.values, x.read(first + j, count, given.values), count, factor);
                if (y.dtype == Dtype::F16 || y.dtype == Dtype::BF16) {  // rounded as the bracket is, through y
                    y.write(first + j, count, made.values);
                    y.read(first + j, count, made.values);
                }
                multiply(made.values, weight.read(j, count, weights.values), count);
                y.write(first + j, count, made.values);
            }
        }
    });
}

}  // namespace graftwork
