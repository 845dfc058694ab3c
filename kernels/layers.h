// Layers of a loaded model in one call each, with what a step's adapters add to them; what an inference step calls.
#pragma once

#include <array>
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

    Dtype dtype() const { return gate.weight.dtype; }

    // Elements of a row of x, and of y.
    std::int64_t width() const { return gate.weight.shape[1]; }
    std::int64_t out() const { return down.weight.shape[0]; }

private:
    const LinearLayer gate, up, down;
    const std::string activation;
};

// What the layers of a step share: cos and sin [tokens, width], pages and spans as `paged_attention` takes them.
struct Step {
    const Array cos, sin, pages, spans;
};

// A layer's keys and values.
using Cached = std::pair<Array, Array>;

using AddedToLayer = std::array<Added, 7>;

// The weight of an `rms_norm` and its epsilon.
using Norm = std::pair<Array, float>;

// x + o(attention of q, k and v of norm(x)) and then z + feed_forward(norm(z)): a whole layer of a decoder, as the
// kernels of its parts give it. Queries and keys are turned by rotary embeddings, after norms of their own if they have any.
class DecoderLayer {
public:
    // Throws std::invalid_argument for parts that do not fit each other.
    DecoderLayer(
        Norm before_attention,
        LinearLayer q,
        LinearLayer k,
        LinearLayer v,
        LinearLayer o,
        std::optional<Norm> of_queries,
        std::optional<Norm> of_keys,
        Norm before_feed_forward,
        GatedLayers feed_forward,
        float scale,
        std::int64_t window);

    // Of rows x [tokens, hidden], which may be y; what is added: to q, k, v, o, gate, up and down.
    void compute(
        std::uintptr_t y, std::uintptr_t x, const Step& step, const Cached& cached, const AddedToLayer& added) const;

private:
    const Norm before_attention;
    const LinearLayer q, k, v, o;
    const std::optional<Norm> of_queries, of_keys;
    const Norm before_feed_forward;
    const GatedLayers feed_forward;
    const float scale;
    const std::int64_t window;
};

// Layers one after the other.
class DecoderLayers {
public:
    explicit DecoderLayers(std::vector<DecoderLayer> layers) : layers(std::move(layers)) {}

    // Throws std::invalid_argument unless there is something cached and added for each layer.
    void compute(
        std::uintptr_t y,
        std::uintptr_t x,
        const Step& step,
        const std::vector<Cached>& cached,
        const std::vector<AddedToLayer>& added) const;

private:
    const std::vector<DecoderLayer> layers;
};

}  // namespace graftwork
