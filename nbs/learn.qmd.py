"""---
title: Learn
description: Five tracks of lessons, in reading order
repo-actions: false
---"""
from rlgen._site import front_page

print(front_page('Start', 'RLDF: from an image to its prompt', 'Preference prompts: words for images that you like',
                 'Support sets: images that a classifier needs',
                 'Generative models: what reinforcement learning does to the generator'))
