"""Lightning modules on MONAI networks; they know nothing of federation."""
