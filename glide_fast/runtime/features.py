"""The runtime's optimisations, each of which can be switched off to measure what it is worth."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Features:
    """``glide-fast bench step --ablate`` measures the step without each of those that are on, and with each of the others.

    Off by default are ``fp8``, and what reorders the launches of a GPU until a GPU has run its tests.
    """

    cached_text: bool = True
    """A prompt is encoded once; otherwise the text transformer, and all keys and values of the text, at every call."""
    tabulated_films: bool = True
    """Scale and shift of all residual blocks are computed for all steps before the loop; otherwise at each step."""
    share: bool = True
    """The pictures' part of the first convolution (the low-resolution picture's, say) is computed before the loop; otherwise
    they are joined to the state and read again at each step."""
    packed_weights: bool = True
    """Convolutions' weights are held as the kernels read them (CPU); otherwise oneDNN packs them at every call, and Winograd's
    kernel, which reads no others, does not run."""
    fused_sums: bool = True
    """Biases and residuals are added by the convolution that writes their sum, or by the norm that reads it; residuals are
    otherwise added by a pass of their own."""
    by_places: bool = True
    """A convolution behind an upsampling reads the small picture, with different weights for each position within an upsampled
    pixel (CPU); otherwise it reads the upsampled picture."""
    winograd: bool = True
    """3x3 convolutions take two thirds of the products by Winograd's algorithm where that is faster (CPU, bf16); otherwise oneDNN
    takes all of them."""
    windows: bool = True
    """Where a matrix product was measured to be faster than a convolution, norms write 3x3 windows for it (GPU, half precision);
    otherwise they write pictures, and all convolutions read those."""
    output_convolution: bool = True
    """The last convolution, whose weights are fp32, reads pixels in fp16 and runs in a kernel of its own (GPU); otherwise cuDNN
    convolves pixels in fp32."""
    arena: bool = True
    """A step's tensors lie in memory that every step uses again (CPU); otherwise each asks the C library for its own."""

    side_stream: bool = False
    """The shortcut's small products run beside the main branch of their block, on a second stream (GPU); otherwise after its
    second norm, one after the other. It never ran on a device."""
    dependent_launch: bool = False
    """Our kernels are set up while the kernel before them ends (GPU, from compute capability 9.0 on); otherwise afterwards. It
    never ran on a device."""
    fp8: bool = False
    """The 3x3 convolutions of 8 to 32 pixels multiply in fp8, once :func:`glide_fast.runtime.fp8.calibrating` has seen what they
    read (GPU, half precision). It changes the picture, and was never timed."""


ALL = Features()
"""The optimisations that are on by default in :func:`glide_fast.runtime.accelerate`."""
