// A block's dynamic shared memory by name. Whoever compiles the kernels for something else than a GPU defines where it is.
#pragma once

#ifdef __CUDACC__
#define GLIDE_FAST_SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]
#endif
