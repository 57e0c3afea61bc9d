"""Ways of running a network: PyTorch, torch.compile, CUDA graphs, ONNX Runtime, OpenVINO, MNN. See `fast_model.speed_up`."""
