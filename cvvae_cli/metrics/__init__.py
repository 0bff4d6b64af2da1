"""How near decoded frames are to their source. METRICS maps names to functions of two batches of frames.

Each takes uint8 RGB (T, H, W, 3) twice and gives one value per frame, float64 (T,).
"""

from cvvae_cli.metrics.psnr import psnr
from cvvae_cli.metrics.ssim import ssim

METRICS = {"psnr_db": psnr, "ssim": ssim}

__all__ = ["METRICS", "psnr", "ssim"]
