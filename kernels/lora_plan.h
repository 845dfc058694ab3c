// Both halves of a batched LoRA in one call, for layers that read the same input; what an inference step calls.
#pragma once

#include "lora.h"

namespace graftwork {

// Which tokens of a step follow each other with the same slot; made once a step.
class LoraRows {
public:
    explicit LoraRows(const std::vector<std::int32_t>& slots);

    struct Group {
        std::int64_t slot, first, tokens;
    };
    std::vector<Group> groups;
    std::int64_t tokens;
};

// One layer: its pools, where each slot's rows begin in them and how many they are, and where its columns begin in y.
struct LoraLayer {
    Array a, b;
    std::vector<std::int32_t> start, rank;
    std::int64_t column;
};

class LoraPlan {
public:
    // Throws std::out_of_range for rows that do not exist, std::invalid_argument for pools that do not fit.
    explicit LoraPlan(std::vector<LoraLayer> layers);

    // Whether it is of one layer, with a weight of this shape and dtype.
    bool fits(const Array& weight) const;

    // y[t, column + j] += sum over r of (a[r] . x[t]) * b[r, j] for every layer; x is [tokens, in] and y has `stride`
    // elements a row, both of the pools' dtype.
    void add(const LoraRows& rows, std::uintptr_t x, std::uintptr_t y, std::int64_t stride) const;

private:
    std::vector<LoraLayer> layers;
    std::int64_t slots;
};

}  // namespace graftwork
