// Around the CUDA kernels of group_norm_act: checks, the plan, and launches.
#include "group_norm_act/cuda.cuh"

#include <string>

#include "cuda/launch.cuh"
#include "cuda/require.h"
#include "group_norm_act/cuda.h"

namespace glide_fast::cuda {

namespace {

void check_arguments(const GroupNormAct& g) {
    constexpr Require require{"group_norm_act"};
    require(g.samples >= 1 && g.samples <= 65535 && g.rows >= 1 && g.channels >= 1, "sizes must be positive, samples below 65536");
    // The kernels count in 32 bits.
    for (const std::int64_t size : {g.rows, g.channels, g.width}) require(size < std::int64_t(1) << 31, "a size is less than 2^31");
    require(g.groups >= 1 && g.channels % g.groups == 0, "groups must divide channels");
    require(g.x.data && g.y.data && g.weight.data && g.bias.data, "x, y, weight and bias are needed");
    require(!g.scale.data == !g.shift.data, "scale and shift come together");
    require(g.x2.data ? g.x_channels >= 1 && g.x_channels < g.channels : g.x_channels == g.channels,
            "x has all channels, or x2 has the others");
    require(!g.sum.data || g.residual.data || g.x_bias.data, "sum needs a residual or a bias to add");
    for (const Rows& rows : {g.x, g.x2, g.residual, g.sum, g.y})
        require(rows.row_stride >= 0 && rows.row_stride < std::int64_t(1) << 31, "a row stride is less than 2^31");
    for (const Dtype type : {g.dtype, g.weight.dtype, g.bias.dtype, g.scale.dtype, g.shift.dtype, g.x_bias.dtype})
        require(type == Dtype::f32 || type == Dtype::bf16 || type == Dtype::f16,
                "a type code is 0 (fp32), 1 (bf16) or 2 (fp16)");
    require(g.out_dtype == g.dtype || g.out_dtype == Dtype::f32, "y has the type of x, or fp32");
    require(!g.windows, "the kernels write pictures, not windows");
    if (g.resample == Resampling::none) return;
    require(g.resample == Resampling::nearest_x2 || g.resample == Resampling::mean_2x2,
            "resample is 0 (none), 1 (nearest x2) or 2 (2x2 mean)");
    require(g.width >= 1 && g.rows % g.width == 0, "width must divide rows");
    require(g.resample != Resampling::mean_2x2 || (g.width % 2 == 0 && g.rows / g.width % 2 == 0),
            "a 2x2 mean needs an even height and width");
}

bool allows_vectors(const Rows& rows, int vector) {
    return reinterpret_cast<std::uintptr_t>(rows.data) % 16 == 0 && rows.sample_stride % vector == 0 && rows.row_stride % vector == 0;
}

Shape shape_of(const GroupNormAct& g) {
    const int vector = 16 / bytes_of(g.dtype);
    bool vectors = g.channels % vector == 0 && g.x_channels % vector == 0;
    for (const Rows& rows : {g.x, g.x2, g.residual, g.sum, g.y}) vectors = vectors && (!rows.data || allows_vectors(rows, vector));
    return {g.samples, int(g.rows), int(g.channels), int(g.groups), bytes_of(g.dtype), vectors,
            g.resample == Resampling::mean_2x2 ? 2 * int(g.width) : 1};
}

template <typename T, int N>
void run_two_pass(const GroupNormAct& g, const Plan& plan, std::uintptr_t workspace, std::uintptr_t stream) {
    const Launch how{dim3(unsigned(plan.chunks), unsigned(plan.slabs), unsigned(g.samples)), plan.threads, plan.shared_bytes};
    auto* const parts = reinterpret_cast<Moments*>(workspace);
    launch(statistics<T, N>, how, stream, g, plan, parts);
    launch(result<T, N>, how, stream, g, plan, float(g.eps), parts);
}

template <typename T>
void run(const GroupNormAct& g, const Plan& plan, std::uintptr_t workspace, std::uintptr_t stream) {
    constexpr int full = 16 / int(sizeof(T));
    if (plan.one_pass) {
        Launch how{dim3(unsigned(plan.chunks), unsigned(plan.slabs), unsigned(g.samples)), plan.threads, plan.shared_bytes};
        how.cluster = plan.chunks;
        launch(one_pass<T, full>, how, stream, g, plan, float(g.eps));
    } else if (plan.vector == full) {
        run_two_pass<T, full>(g, plan, workspace, stream);
    } else {
        run_two_pass<T, 1>(g, plan, workspace, stream);
    }
}

}  // namespace

Device current_device() {
    int device = 0, multiprocessors = 0, shared_bytes = 0, major = 0;
    check(cudaGetDevice(&device), "asking for the device");
    check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), "asking for multiprocessors");
    check(cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "asking for shared memory");
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "asking for the compute capability");
    return {multiprocessors, shared_bytes, major >= 9};
}

Plan plan_group_norm_act(const GroupNormAct& g, const Device& device, const std::string& variant) {
    check_arguments(g);
    const Shape shape = shape_of(g);
    if (variant.empty()) return plan_for(shape, device);
    constexpr Require require{"group_norm_act"};
    require(variant == "one_pass" || variant == "two_pass", "a variant is one_pass or two_pass");
    Plan plan{};
    plan_detail::choose_slab(shape, plan);
    if (variant == "two_pass") {
        plan_detail::choose_two_pass(shape, device, plan);
    } else {
        require(plan_detail::choose_one_pass(shape, device, plan),
                "one_pass needs clusters, 16-byte vectors, and a slab that fits their shared memory");
    }
    return plan;
}

void group_norm_act(const GroupNormAct& g, const Plan& plan, std::uintptr_t workspace, std::uintptr_t stream) {
    check_arguments(g);
    constexpr Require require{"group_norm_act"};
    require(plan.workspace_bytes == 0 || workspace, "this plan needs a workspace");
    switch (g.dtype) {
        case Dtype::f32: return run<float>(g, plan, workspace, stream);
        case Dtype::bf16: return run<__nv_bfloat16>(g, plan, workspace, stream);
        case Dtype::f16: return run<__half>(g, plan, workspace, stream);
    }
}

}  // namespace glide_fast::cuda
