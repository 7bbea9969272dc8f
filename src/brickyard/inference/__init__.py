"""Run trained models on images: one image, a folder, or large data sets as resumable jobs."""
