"""What trained networks still recognise, on images other than they were trained on."""
