"""The methods for few rows: a regression on the embeddings of a frozen encoder, or of one adapted by a contrastive loss."""
