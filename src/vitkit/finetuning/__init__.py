"""The parts of a fine-tuning run, in the order in which `jobs/finetune.py` calls them."""
