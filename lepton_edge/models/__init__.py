"""From a Hugging Face config.json to the description of a model that the program builder reads."""
