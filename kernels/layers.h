// Layers of a loaded model in one call each, with what a step's adapters add to them; what an inference step calls.
#pragma once

#include <utility>

#include "lora_plan.h"

namespace graftwork {

// What a step's adapters add to a layer; two null pointers where that is nothing.
using Added = std::pair<const LoraRows*, const LoraPlan*>;

// As `linear` and then `LoraPlan::add` give it; the weight stays where it is.
class LinearLayer {
public:
    LinearLayer(const Array& weight, const OptionalArray& bias);

    // y = x w^T + bias, and what is added, for `tokens` tokens of the weight's dtype.
    // Throws std::invalid_argument for a plan of another layer, or of other rows.
    void compute(std::uintptr_t y, std::uintptr_t x, std::int64_t tokens, Added added) const;

    const Array weight;

private:
    const OptionalArray bias;
};

// down(activation(gate(x)) * up(x)), as the layers and `gated_product` give it.
class GatedLayers {
public:
    // Throws std::invalid_argument for layers that do not fit each other.
    GatedLayers(LinearLayer gate, LinearLayer up, LinearLayer down, std::string activation);

    void compute(
        std::uintptr_t y,
        std::uintptr_t x,
        std::int64_t tokens,
        Added to_gate,
        Added to_up,
        Added to_down) const;

private:
    const LinearLayer gate, up, down;
    const std::string activation;
};

}  // namespace graftwork
