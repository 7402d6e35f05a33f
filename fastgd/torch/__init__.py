"""fastgd for PyTorch."""
