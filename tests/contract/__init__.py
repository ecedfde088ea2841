"""What every store must do, as one suite that runs against each of them."""
