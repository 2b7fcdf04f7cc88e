"""What a trained model does well and where it fails: reports, calibration, folds, label errors, explanations."""
