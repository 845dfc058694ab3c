// The CPU twin of linear: the weight lies as it was loaded and is read once for up to TOKENS tokens.
#include <cstring>

#include "../avx512.h"
#include "../lora.h"
#include "../scratch.h"

namespace graftwork {
namespace {

constexpr std::int64_t TOKENS = 64;  // whose inputs stay in the second-level cache
constexpr std::int64_t COLUMNS = 64;

LEAF void add(float* RESTRICT sum, const float* RESTRICT y, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) sum[j] += y[j];
}

// Bytes after which an address falls on the same set of a first-level cache, and what moves it half way round.
constexpr std::int64_t ROUND = 4096, HALF_ROUND = ROUND / 2;

// The tokens of x further apart, where they would push each other out of the first-level cache.
Array spread(const Array& x, std::int64_t tokens, std::int64_t& step, Scratch& scratch) {
    const std::int64_t size = step * x.itemsize(), far = size + HALF_ROUND;
    if (tokens < 4 || size % ROUND != 0) return x;
    Array moved = x;
    moved.data = scratch.room(0, tokens * far);
    split(tokens, tokens * step, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t t = begin; t < end; t++) std::memcpy(moved.data + t * far, x.data + t * size, size);
    });
    step = far / x.itemsize();
    return moved;
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
    std::int64_t step = width;
    Scratch scratch;
    const Array from = spread(x, tokens, step, scratch);
    const std::int64_t tiles = (out + COLUMNS - 1) / COLUMNS;
    for_each_task(tiles, (tokens + 8) * out * width >= THREAD_WORK, [&](std::int64_t i) {
        alignas(64) float sums[TOKENS][COLUMNS];
        alignas(64) float biases[COLUMNS];
        const std::int64_t column = i * COLUMNS, columns = std::min(COLUMNS, out - column);
        const float* added = bias ? bias->read(column, columns, biases) : nullptr;
        for (std::int64_t t = 0; t < tokens; t += TOKENS) {
            const std::int64_t rows = std::min(TOKENS, tokens - t);
            shrink_tile(from, step, t, rows, w, column, columns, width, sums[0], COLUMNS);
            for (std::int64_t r = 0; r < rows; r++) {
                if (added) add(sums[r], added, columns);
                y.write((t + r) * out + column, columns, sums[r]);
            }
        }
    });
}

}  // namespace graftwork
