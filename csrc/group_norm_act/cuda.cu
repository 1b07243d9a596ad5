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
    if (g.resample == Resampling::none && !g.windows) return;
    require(g.resample == Resampling::none || g.resample == Resampling::nearest_x2 || g.resample == Resampling::mean_2x2,
            "resample is 0 (none), 1 (nearest x2) or 2 (2x2 mean)");
    require(g.width >= 1 && g.rows % g.width == 0, "width must divide rows");
    require(g.resample != Resampling::mean_2x2 || (g.width % 2 == 0 && g.rows / g.width % 2 == 0),
            "a 2x2 mean needs an even height and width");
}

bool allows_vectors(const Rows& rows, int vector) {
    return reinterpret_cast<std::uintptr_t>(rows.data) % 16 == 0 && rows.sample_stride % vector == 0 && rows.row_stride % vector == 0;
}

bool allows_vectors(const PerChannel& from, int vector) {
    return reinterpret_cast<std::uintptr_t>(from.data) % 16 == 0 && from.sample_stride % vector == 0;
}

Shape shape_of(const GroupNormAct& g) {
    const int vector = 16 / bytes_of(g.dtype);
    bool vectors = g.channels % vector == 0 && g.x_channels % vector == 0;
    for (const Rows& rows : {g.x, g.x2, g.residual, g.sum, g.y}) vectors = vectors && (!rows.data || allows_vectors(rows, vector));
    for (const PerChannel& one : {g.x_bias, g.weight, g.bias, g.scale, g.shift}) vectors = vectors && allows_vectors(one, vector);
    return {g.samples, int(g.rows), int(g.channels), int(g.groups), bytes_of(g.dtype), vectors, int(g.width),
            g.resample == Resampling::mean_2x2};
}

Plan completed(const GroupNormAct& g, const Device& device, const Choice& choice) {
    Plan plan{};
    const char* const why_not = complete(shape_of(g), device, choice, plan);
    constexpr Require require{"group_norm_act"};
    require(!why_not, why_not);
    return plan;
}

// What a launch needs beside a kernel.
struct Call {
    const GroupNormAct& g;
    const Plan& plan;
    Moments* workspace;
    std::uintptr_t stream;
    Launch how;
    Overlap overlap;
};

template <typename T, int N, Form form>
void run_two_pass(const Call& call) {
    launch(statistics<T, N>, call.how, call.stream, call.g, call.plan, call.workspace);
    Launch second = call.how;
    second.overlap = call.overlap != Overlap::none;
    launch(result<T, N, form>, second, call.stream, call.g, call.plan, float(call.g.eps), call.workspace);
}

template <typename T, int N, bool Held, Form form>
void run_one_pass(const Call& call) {
    launch(one_pass<T, N, Held, form>, call.how, call.stream, call.g, call.plan, float(call.g.eps));
}

template <typename T, Form form>
void run(const Call& call) {
    constexpr int full = 16 / int(sizeof(T));
    // Single elements are rare, and as well served by the kernel that can spread them.
    constexpr Form of_elements = form == Form::once ? Form::spread : form;
    if (call.plan.vector == 1) return run_two_pass<T, 1, of_elements>(call);
    if (!call.plan.one_pass) return run_two_pass<T, full, form>(call);
    if constexpr (form != Form::mean && sizeof(T) < 4)
        if (call.plan.held) return run_one_pass<T, full, true, form>(call);
    run_one_pass<T, full, false, form>(call);
}

template <typename T>
void run(const Call& call) {
    if (call.g.resample == Resampling::mean_2x2) return run<T, Form::mean>(call);
    if (call.g.resample == Resampling::nearest_x2 || call.g.windows) return run<T, Form::spread>(call);
    run<T, Form::once>(call);
}

// Of blocks that have a multiprocessor each: how many of those lie in one part of the chip differs from device to device.
int largest_cluster(int shared_bytes) {
    auto* const kernel = one_pass<__half, 8, false, Form::once>;
    const auto* const address = reinterpret_cast<const void*>(kernel);
    check(cudaFuncSetAttribute(address, cudaFuncAttributeNonPortableClusterSizeAllowed, 1), "asking for a large cluster");
    check(cudaFuncSetAttribute(address, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes), "asking for shared memory");
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(unsigned(max_cluster));
    config.blockDim = dim3(unsigned(max_threads));
    config.dynamicSmemBytes = std::size_t(shared_bytes);
    int size = 0;
    if (cudaOccupancyMaxPotentialClusterSize(&size, kernel, &config) == cudaSuccess) return size;
    cudaGetLastError();  // forget it
    return portable_cluster;
}

}  // namespace

Device current_device() {
    int device = 0, multiprocessors = 0, shared_bytes = 0, major = 0;
    check(cudaGetDevice(&device), "asking for the device");
    check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), "asking for multiprocessors");
    check(cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "asking for shared memory");
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "asking for the compute capability");
    return {multiprocessors, shared_bytes, major >= 9 ? largest_cluster(shared_bytes) : 0};
}

Plan plan_group_norm_act(const GroupNormAct& g, const Device& device, const Choice& choice) {
    check_arguments(g);
    return completed(g, device, choice);
}

bool plan_fits(const GroupNormAct& g, const Device& device, const Choice& choice, Plan& plan) {
    check_arguments(g);
    return !complete(shape_of(g), device, choice, plan);
}

Plan plan_group_norm_act(const GroupNormAct& g, const Device& device, const std::string& variant) {
    check_arguments(g);
    constexpr Require require{"group_norm_act"};
    require(variant.empty() || variant == "one_pass" || variant == "two_pass", "a variant is one_pass or two_pass");
    const Shape shape = shape_of(g);
    Plan plan{};
    if (variant.empty() && complete(shape, device, simple_choice(shape, device, true), plan))
        return completed(g, device, simple_choice(shape, device, false));
    return completed(g, device, simple_choice(shape, device, variant != "two_pass"));
}

void group_norm_act(const GroupNormAct& g, const Plan& plan, std::uintptr_t workspace, std::uintptr_t stream, Overlap overlap) {
    check_arguments(g);
    constexpr Require require{"group_norm_act"};
    require(plan.workspace_bytes == 0 || workspace, "this plan needs a workspace");
    Call call{g, plan, reinterpret_cast<Moments*>(workspace), stream,
              {dim3(unsigned(plan.chunks), unsigned(plan.slabs), unsigned(g.samples)), plan.threads, plan.shared_bytes}, overlap};
    call.how.cluster = plan.one_pass ? plan.chunks : 0;
    call.how.overlap = overlap == Overlap::earlier;
    switch (g.dtype) {
        case Dtype::f32: return run<float>(call);
        case Dtype::bf16: return run<__nv_bfloat16>(call);
        case Dtype::f16: return run<__half>(call);
    }
}

}  // namespace glide_fast::cuda
