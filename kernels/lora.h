// What the two halves of a batched LoRA share: runs of tokens of one slot, and the split of large work over threads.
#pragma once

#include <algorithm>
#include <thread>

#include "native.h"

namespace graftwork {

struct Run {
    std::int64_t first;   // the first token
    std::int64_t tokens;  // how many follow each other with this slot
    std::int64_t start;   // the slot's first row in the pool
    std::int64_t rank;
};

int lora_threads();

// The runs of tokens that have a slot with rows. Throws std::out_of_range for a slot or rows that do not exist.
inline std::vector<Run> runs_of(
    const Array& start, const Array& rank, const Array& slot, std::int64_t pool_rows, std::int64_t max_rank) {
    const std::int32_t *starts = start.int32(), *ranks = rank.int32(), *slots = slot.int32();
    std::vector<Run> runs;
    for (std::int64_t first = 0, next; first < slot.size; first = next) {
        const std::int64_t s = slots[first];
        for (next = first + 1; next < slot.size && slots[next] == s;) next++;
        if (s < 0) continue;
        if (s >= start.size) throw std::out_of_range("slot " + std::to_string(s) + " does not exist");
        if (ranks[s] < 0 || ranks[s] > max_rank || starts[s] < 0 || starts[s] + std::int64_t{ranks[s]} > pool_rows)
            throw std::out_of_range("the rows of slot " + std::to_string(s) + " do not exist");
        if (ranks[s] > 0) runs.push_back({first, next - first, starts[s], ranks[s]});
    }
    return runs;
}

// Multiplications of a batch below which starting a thread costs more than it saves.
constexpr std::int64_t THREAD_WORK = std::int64_t{1} << 21;

inline std::int64_t work_of(const std::vector<Run>& runs, std::int64_t width) {
    std::int64_t work = 0;
    for (const Run& run : runs) work += run.tokens * run.rank * width;
    return work;
}

// Call `part(begin, end)` for consecutive ranges of `items`, on as many threads as the work is worth.
template <typename Part>
void split(std::int64_t items, std::int64_t work, Part part) {
    const std::int64_t most = std::max<std::int64_t>(1, std::min<std::int64_t>(items, lora_threads()));
    const std::int64_t parts = std::clamp<std::int64_t>(work / THREAD_WORK, 1, most);
    std::vector<std::thread> threads;
    for (std::int64_t p = 1; p < parts; p++)
        threads.emplace_back(part, items * p / parts, items * (p + 1) / parts);
    part(std::int64_t{0}, items / parts);
    for (std::thread& thread : threads) thread.join();
}

}  // namespace graftwork
