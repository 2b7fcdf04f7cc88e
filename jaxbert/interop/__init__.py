"""Read and write weights, configurations and tokenizers: Hugging Face folders, PyTorch files, legacy Flax trees."""
