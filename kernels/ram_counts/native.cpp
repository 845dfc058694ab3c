// The CPU twin of ram_counts.
#include <algorithm>
#include <cmath>

#include "../native.h"

namespace graftwork {
namespace {

LEAF void mark(
    std::int32_t* RESTRICT counts,
    std::int32_t* RESTRICT many,
    const float* RESTRICT x,
    const float* RESTRICT base,
    float epsilon,
    std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) {
        counts[j] = !(std::fabs(x[j] - base[j]) <= epsilon);
        many[j] += counts[j];
    }
}

LEAF std::int32_t sum_where_alone(const std::int32_t* counts, const std::int32_t* many, std::int64_t count) {
    std::int32_t alone = 0;
    for (std::int64_t j = 0; j < count; j++) alone += counts[j] & (many[j] == 1);
    return alone;
}

LEAF std::int32_t sum(const std::int32_t* counts, std::int64_t count) {
    std::int32_t total = 0;
    for (std::int64_t j = 0; j < count; j++) total += counts[j];
    return total;
}

struct alignas(64) Marks {
    std::int32_t values[BLOCK];
};

}  // namespace

void ram_counts(const Array& out, const Array& base, const std::vector<Array>& inputs, float epsilon) {
    check_sizes(base.size, inputs);
    if (out.size != 2 * static_cast<std::int64_t>(inputs.size()))
        throw std::invalid_argument("the output has another size");
    std::int64_t* totals = out.int64();
    std::fill(totals, totals + out.size, 0);
    std::vector<Marks> marks(inputs.size());
    Marks many;
    alignas(64) float x_scratch[BLOCK], base_scratch[BLOCK];
    for (std::int64_t first = 0; first < base.size; first += BLOCK) {
        const std::int64_t count = std::min(BLOCK, base.size - first);
        const float* origin = base.read(first, count, base_scratch);
        std::fill(many.values, many.values + count, 0);
        for (std::size_t i = 0; i < inputs.size(); i++)
            mark(marks[i].values, many.values, inputs[i].read(first, count, x_scratch), origin, epsilon, count);
        for (std::size_t i = 0; i < inputs.size(); i++) {
            const std::int32_t alone = sum_where_alone(marks[i].values, many.values, count);
            totals[2 * i] += sum(marks[i].values, count) - alone;
            totals[2 * i + 1] += alone;
        }
    }
}

}  // namespace graftwork
