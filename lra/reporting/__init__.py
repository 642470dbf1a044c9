"""Records of finished runs, and the tables, pictures and pages made of them."""
