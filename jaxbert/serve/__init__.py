"""A trained model as a service: requests share packed batches of compiled shapes."""
