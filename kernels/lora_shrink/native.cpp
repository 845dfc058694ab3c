// The CPU twin of lora_shrink: each row of the pool is read once for a run of tokens.
#include <atomic>

#include "../lora.h"

namespace graftwork {
namespace {

std::atomic<int> threads{1};

constexpr std::int64_t WIDTH = 32;  // sums kept side by side, which fixes the order of a dot product

LEAF float dot(const float* RESTRICT left, const float* RESTRICT right, std::int64_t count) {
    float sums[WIDTH] = {};
    std::int64_t i = 0;
    for (; i + WIDTH <= count; i += WIDTH)
        for (std::int64_t l = 0; l < WIDTH; l++) sums[l] += left[i + l] * right[i + l];
    for (std::int64_t l = 0; i + l < count; l++) sums[l] += left[i + l] * right[i + l];
    for (std::int64_t half = WIDTH / 2; half > 0; half /= 2)
        for (std::int64_t l = 0; l < half; l++) sums[l] += sums[l + half];
    return sums[0];
}

// Any number of elements in float32: in place when they are, else converted into `scratch`.
const float* read_all(const Array& array, std::int64_t first, std::int64_t count, std::vector<float>& scratch) {
    if (array.dtype == Dtype::F32) return array.read(first, count, nullptr);
    scratch.resize(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; i += BLOCK) array.read(first + i, std::min(BLOCK, count - i), &scratch[i]);
    return scratch.data();
}

struct Row {
    const Run* run;
    std::int64_t r;
};

}  // namespace

void set_threads(int count) { threads = count; }

int lora_threads() { return threads; }

void lora_shrink(
    const Array& h, const Array& x, const Array& a, const Array& start, const Array& rank, const Array& slot) {
    const std::int64_t width = x.shape.at(1), max_rank = h.shape.at(1);
    check_sizes(h.shape.at(0) * width, std::vector<Array>{x});
    check_sizes(h.shape.at(0), std::vector<Array>{slot});
    check_sizes(a.shape.at(0) * width, std::vector<Array>{a});
    check_sizes(start.size, std::vector<Array>{rank});
    const std::vector<Run> runs = runs_of(start, rank, slot, a.shape.at(0), max_rank);
    float* result = h.float32();
    std::fill(result, result + h.size, 0.f);
    std::vector<float> x_scratch;
    const float* tokens = read_all(x, 0, x.size, x_scratch);
    std::vector<Row> rows;
    for (const Run& run : runs)
        for (std::int64_t r = 0; r < run.rank; r++) rows.push_back({&run, r});
    split(static_cast<std::int64_t>(rows.size()), work_of(runs, width), [&](std::int64_t begin, std::int64_t end) {
        std::vector<float> row_scratch;
        for (std::int64_t i = begin; i < end; i++) {
            const auto [run, r] = rows[i];
            const float* row = read_all(a, (run->start + r) * width, width, row_scratch);
            for (std::int64_t t = run->first; t < run->first + run->tokens; t++)
                result[t * max_rank + r] = dot(row, tokens + t * width, width);
        }
    });
}

}  // namespace graftwork
