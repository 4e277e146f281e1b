"""What the papers print, which runs stand beside it, and the claims."""
