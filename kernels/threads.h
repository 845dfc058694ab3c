// A few threads that wait for the next call of a kernel, so that none has to be started inside an inference step.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>

namespace graftwork {

// Call `task(i)` for every i below `tasks`, on as many threads as are set when `parallel`. Tasks must not throw, and must
// write where no other does: then nothing depends on who runs them. A call while another runs works on its caller's thread.
void for_each_task(std::int64_t tasks, bool parallel, const std::function<void(std::int64_t)>& task);

// Threads that are set.
int thread_count();

// Multiplications of a batch below which waking a thread costs more than it saves.
constexpr std::int64_t THREAD_WORK = std::int64_t{1} << 20;

// Call `part(begin, end)` for consecutive ranges of `items`, on as many threads as the work is worth.
template <typename Part>
void split(std::int64_t items, std::int64_t work, Part part) {
    const std::int64_t most = std::max<std::int64_t>(1, std::min<std::int64_t>(items, thread_count()));
    const std::int64_t parts = std::clamp<std::int64_t>(work / THREAD_WORK, 1, most);
    for_each_task(parts, parts > 1, [&](std::int64_t p) { part(items * p / parts, items * (p + 1) / parts); });
}

}  // namespace graftwork
