"""Dense tensors on GPUs, by kernels in Triton."""
