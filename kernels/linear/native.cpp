// The CPU twin of linear: the weight lies as it was loaded and is read once for up to TOKENS tokens.
#include "../avx512.h"
#include "../lora.h"

namespace graftwork {
namespace {

constexpr std::int64_t TOKENS = 64;  // whose inputs stay in the second-level cache
constexpr std::int64_t COLUMNS = 64;

LEAF void add(float* RESTRICT sum, const float* RESTRICT y, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) sum[j] += y[j];
}

}  // namespace

bool has_fast_linear(const std::string& dtype) {
#ifdef GRAFTWORK_AVX512
    return (dtype == "BF16" && has_avx512_bf16()) || (dtype == "F32" && has_avx512());
#else
    return false;
#endif
}

void linear(const Array& y, const Array& x, const Array& w, const OptionalArray& bias) {
    const std::int64_t tokens = x.shape.at(0), width = x.shape.at(1), out = w.shape.at(0);
    check_sizes(tokens * out, std::vector<Array>{y});
    check_sizes(out * width, std::vector<Array>{w});
    check_sizes(out, bias);
    const std::int64_t tiles = (out + COLUMNS - 1) / COLUMNS;
    for_each_task(tiles, (tokens + 8) * out * width >= THREAD_WORK, [&](std::int64_t i) {
        alignas(64) float sums[TOKENS][COLUMNS];
        alignas(64) float biases[COLUMNS];
        const std::int64_t column = i * COLUMNS, columns = std::min(COLUMNS, out - column);
        const float* added = bias ? bias->read(column, columns, biases) : nullptr;
        for (std::int64_t t = 0; t < tokens; t += TOKENS) {
            const std::int64_t rows = std::min(TOKENS, tokens - t);
            shrink_tile(x, t, rows, w, column, columns, width, sums[0], COLUMNS);
            for (std::int64_t r = 0; r < rows; r++) {
                if (added) add(sums[r], added, columns);
                y.write((t + r) * out + column, columns, sums[r]);
            }
        }
    });
}

}  // namespace graftwork
