"""How well found cells agree with known ones: matching, overlap, counts, pictures of the failures."""
