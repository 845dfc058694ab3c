// The CPU twin of lora_expand: each block of a pool row is read once for a few tokens of a run.
#include "../lora.h"

namespace graftwork {
namespace {

constexpr std::int64_t TOKENS = 8;  // tokens whose sums are kept in the first-level cache together

LEAF void add_scaled(float* RESTRICT sum, const float* RESTRICT row, float weight, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) sum[j] += weight * row[j];
}

LEAF void add(float* RESTRICT sum, const float* RESTRICT y, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) sum[j] += y[j];
}

// Add the update of `tokens <= TOKENS` tokens from `first` on to their outputs from `column` on.
void expand_block(
    const Array& y,
    const float* h,
    std::int64_t max_rank,
    const Array& b,
    const Run& run,
    std::int64_t first,
    std::int64_t tokens,
    std::int64_t column,
    std::int64_t count) {
    const std::int64_t width = y.shape[1];
    alignas(64) float sums[TOKENS][BLOCK] = {};
    alignas(64) float scratch[BLOCK];
    for (std::int64_t r = 0; r < run.rank; r++) {
        const float* row = b.read((run.start + r) * width + column, count, scratch);
        for (std::int64_t t = 0; t < tokens; t++) add_scaled(sums[t], row, h[(first + t) * max_rank + r], count);
    }
    for (std::int64_t t = 0; t < tokens; t++) {
        const std::int64_t at = (first + t) * width + column;
        add(sums[t], y.read(at, count, scratch), count);
        y.write(at, count, sums[t]);
    }
}

}  // namespace

void lora_expand(
    const Array& y, const Array& h, const Array& b, const Array& start, const Array& rank, const Array& slot) {
    const std::int64_t width = y.shape.at(1), max_rank = h.shape.at(1);
    check_sizes(h.shape.at(0) * width, std::vector<Array>{y});
    check_sizes(h.shape.at(0), std::vector<Array>{slot});
    check_sizes(b.shape.at(0) * width, std::vector<Array>{b});
    check_sizes(start.size, std::vector<Array>{rank});
    const std::vector<Run> runs = runs_of(start, rank, slot, b.shape.at(0), max_rank);
    const float* weights = h.float32();
    const std::int64_t blocks = (width + BLOCK - 1) / BLOCK;
    split(blocks, work_of(runs, width), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t column = begin * BLOCK; column < std::min(end * BLOCK, width); column += BLOCK)
            for (const Run& run : runs)
                for (std::int64_t t = 0; t < run.tokens; t += TOKENS)
                    expand_block(
                        y, weights, max_rank, b, run, run.first + t, std::min(TOKENS, run.tokens - t), column,
                        std::min(BLOCK, width - column));
    });
}

}  // namespace graftwork
